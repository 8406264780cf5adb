"""Parse bounces, complaints and automatic replies: octets in, a `Notice` out. Pure; never raises.

`mime` parses the message, `classify` tries the parsers in order (`reports`, `reply_mails`,
`freeform`), `original` locates the returned mail and the addresses, and `diagnostics` classifies
diagnostic texts by the same rules as SMTP replies.
"""

from pipeline.feedback.bounces.classify import read_mail

__all__ = ["read_mail"]
