"""What a mail that came back says: its octets in, a `Notice` out; pure, and it never raises.

`mime` takes the mail apart, `mails` asks the readers one after another (`arf`, `dsn`, `receipts`,
`freeform`, `automatic`, `leaving`), and `diagnostics` reads what a server said by the rules that
hold for its replies.
"""

from pipeline.feedback.reading.mails import read_mail

__all__ = ["read_mail"]
