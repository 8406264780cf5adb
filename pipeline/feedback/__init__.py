"""What news about a delivery means: bounce mails and webhooks, and what they do to an address."""

from pipeline.feedback.applying import Effect, Event, Feedback
from pipeline.feedback.suppressing import lift, suppress

__all__ = ["Effect", "Event", "Feedback", "lift", "suppress"]
