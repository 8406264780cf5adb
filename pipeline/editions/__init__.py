"""Compile the digests of due subscribers and queue them in the outbox."""

from pipeline.editions.backfill import match_late_topics
from pipeline.editions.compiler import SlotResult, outlook, preview, publish
from pipeline.editions.no_match_notice import load_content

__all__ = ["SlotResult", "load_content", "match_late_topics", "outlook", "preview", "publish"]
