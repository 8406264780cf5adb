"""Compile the digests of due subscribers and queue them in the outbox."""

from pipeline.editions.catching_up import bring_topics_up
from pipeline.editions.compiling import Outcome, outlook, preview, publish
from pipeline.editions.quiet import load as load_notes

__all__ = ["Outcome", "bring_topics_up", "load_notes", "outlook", "preview", "publish"]
