"""Sign mails, so that their domain answers for them (RFC 6376, Ed25519 by RFC 8463).

`keys` has what signs and what is published about it, `canonical` the form of a mail that outlives
the way, `signing` the headers that go in front, `checking` what a mailbox makes of them.
"""

from pipeline.dkim.checking import Checked, check
from pipeline.dkim.keys import Algorithm, Key, Record, new_key, read_keys
from pipeline.dkim.signing import Signer, aligned

__all__ = [
    "Algorithm",
    "Checked",
    "Key",
    "Record",
    "Signer",
    "aligned",
    "check",
    "new_key",
    "read_keys",
]
