"""Who is due, their digests, into the outbox."""

from pipeline.editions.catching_up import bring_topics_up
from pipeline.editions.compiling import Outcome, outlook, preview, publish

__all__ = ["Outcome", "bring_topics_up", "outlook", "preview", "publish"]
