"""Sign mails with DKIM (RFC 6376, Ed25519 by RFC 8463), and verify our own signatures.

`keys` parses private keys and builds DNS records, `signatures` creates and verifies the
DKIM-Signature headers over relaxed canonicalisation.
"""

from pipeline.dkim.keys import Algorithm, Key, Record, new_key, read_keys
from pipeline.dkim.signatures import Checked, Signer, aligned, check

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
