"""SMTP client: deliver one message at a time to a mail server. No other package speaks SMTP.

`transport` defines the protocols, `connect` opens a session and logs in, `oauth` fetches access
tokens, `session` runs the transactions, `stream` reads and writes with deadlines, and `replies`
classifies replies by the patterns in `reply_patterns`.
"""

from pipeline.smtp.connect import Security, ServerFeatures, SMTPTransport, transport_of
from pipeline.smtp.replies import (
    Phase,
    Reply,
    Subject,
    printable,
    subject_of,
    verdict_of,
    without_addresses,
)
from pipeline.smtp.reply_patterns import OUR_PLAN
from pipeline.smtp.transport import Connection, Outcome, Transport

__all__ = [
    "OUR_PLAN",
    "Connection",
    "Outcome",
    "Phase",
    "Reply",
    "SMTPTransport",
    "Security",
    "ServerFeatures",
    "Subject",
    "Transport",
    "printable",
    "subject_of",
    "transport_of",
    "verdict_of",
    "without_addresses",
]
