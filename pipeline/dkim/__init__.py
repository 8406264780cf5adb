"""Sign mails with DKIM (RFC 6376, Ed25519 by RFC 8463), and verify our own signatures.

`keys` parses private keys and builds DNS records, `signing` creates the DKIM-Signature headers
over relaxed canonicalisation, `checking` verifies them.
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
