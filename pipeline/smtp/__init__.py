"""SMTP client: deliver one message at a time to a mail server. No other package speaks SMTP.

`connect` opens sessions and logs in, `oauth` fetches access tokens, `session` runs the transactions
and defines the protocols for dispatch, `stream` reads and writes with deadlines, `replies`
classifies replies by the patterns in `reply_patterns`, and `decision` decides what follows.
"""

from pipeline.smtp.connect import Security, ServerFeatures, SMTPTransport, transport_of
from pipeline.smtp.decision import Decision, Scope, decide, decide_locally, strike_of
from pipeline.smtp.replies import (
    Phase,
    Reply,
    Subject,
    printable,
    subject_of,
    verdict_of,
    without_addresses,
)
from pipeline.smtp.session import Connection, Transport

__all__ = [
    "Connection",
    "Decision",
    "Phase",
    "Reply",
    "SMTPTransport",
    "Scope",
    "Security",
    "ServerFeatures",
    "Subject",
    "Transport",
    "decide",
    "decide_locally",
    "printable",
    "strike_of",
    "subject_of",
    "transport_of",
    "verdict_of",
    "without_addresses",
]
