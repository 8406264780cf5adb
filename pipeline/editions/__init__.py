"""Compile the digests of due subscribers and queue them in the outbox."""

from pipeline.editions.backfill import bring_topics_up
from pipeline.editions.compiler import SlotResult, outlook, preview, publish
from pipeline.editions.no_match_notice import load_content

__all__ = ["SlotResult", "bring_topics_up", "load_content", "outlook", "preview", "publish"]
