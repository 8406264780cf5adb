"""Hand one message to a mail server. The only part that speaks SMTP.

`transport` has the seam, `replies` what a reply means, `connection` the words of one transaction,
`server` how a connection is opened, `oauth` where its access tokens come from.
"""

from pipeline.smtp.replies import (
    Phase,
    Reply,
    Subject,
    printable,
    subject_of,
    verdict_of,
    without_addresses,
)
from pipeline.smtp.server import Security, SMTPTransport, Traits, transport_of
from pipeline.smtp.transport import Connection, Outcome, Transport
from pipeline.smtp.wordings import OUR_PLAN

__all__ = [
    "OUR_PLAN",
    "Connection",
    "Outcome",
    "Phase",
    "Reply",
    "SMTPTransport",
    "Security",
    "Subject",
    "Traits",
    "Transport",
    "printable",
    "subject_of",
    "transport_of",
    "verdict_of",
    "without_addresses",
]
