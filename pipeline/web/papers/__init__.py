"""Public pages of papers: lists, search, topics and feeds, from an index in memory."""
