"""Curated topics: named queries that readers can choose instead of writing their own.

They are data: `curated.toml` beside this module, or the file that CURATED_TOPICS names.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from pipeline.domain import TRENDING
from pipeline.errors import QueryError, SettingsError
from pipeline.matching.query import TopicQuery, parse_topic

DEFAULT: Final = Path(__file__).with_suffix(".toml")
LONGEST_NAME: Final = 60  # characters
_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class CuratedTopic:
    slug: str  # identifier in URLs; must never change
    name: str  # display name on pages and in mails
    group: str
    query: str  # as in the file
    parsed: TopicQuery


@dataclass(frozen=True)
class CuratedTopics:
    """The topics of one file, in its order."""

    topics: tuple[CuratedTopic, ...]

    @cached_property
    def by_slug(self) -> Mapping[str, CuratedTopic]:
        return {topic.slug: topic for topic in self.topics}

    @cached_property
    def by_name(self) -> Mapping[str, CuratedTopic]:
        return {topic.name.casefold(): topic for topic in self.topics}

    @cached_property
    def by_query(self) -> Mapping[str, CuratedTopic]:
        """Return the topics by query, as in the file."""
        return {topic.query: topic for topic in self.topics}

    @cached_property
    def slugs_by_query(self) -> Mapping[str, str]:
        """Return the slugs by canonical query."""
        return {topic.parsed.text: topic.slug for topic in self.topics}

    @cached_property
    def groups(self) -> tuple[tuple[str, tuple[CuratedTopic, ...]], ...]:
        return tuple(
            (group, tuple(topics))
            for group, topics in groupby(self.topics, key=lambda topic: topic.group)
        )

    def named(self, line: str) -> CuratedTopic | None:
        """Return the topic with this name; None if the line is a query.

        A form can so submit the lines that it displays, chosen or typed.
        """
        return self.by_name.get(" ".join(line.split()).casefold())


_in_use: list[Path] = [DEFAULT]


def configure(path: Path | None) -> None:
    """Load the topics of this process, from CURATED_TOPICS or the default file; as `read` raises.

    Called once at the start, like the configuration of the log: many pure functions of forms and
    lists of papers need the topics.
    """
    read(path or DEFAULT)
    _in_use[0] = path or DEFAULT


def in_use() -> CuratedTopics:
    """Return the topics of this process, cached."""
    return read(_in_use[0])


@cache
def read(path: Path) -> CuratedTopics:
    """Return the topics of a file. Raises SettingsError that names each invalid entry."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"CURATED_TOPICS: {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingsError(f"CURATED_TOPICS: {path}: {error}") from error
    topics, problems = [], []
    for place, group, entry in _entries(content):
        try:
            topics.append(_topic(group, entry))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems := problems or list(_conflicts(topics)):
        raise SettingsError(f"CURATED_TOPICS: {path}: {'; '.join(problems)}")
    return CuratedTopics(tuple(topics))


def _entries(content: Mapping[str, Any]) -> Iterator[tuple[str, object, object]]:
    """Yield (place for error messages, name of the group, entry) of each topic."""
    groups = content.get("groups")
    for number, group in enumerate(groups if isinstance(groups, list) else [], start=1):
        name, entries = (
            (group.get("name"), group.get("topics")) if isinstance(group, dict) else (None, None)
        )
        for position, entry in enumerate(entries if isinstance(entries, list) else [], start=1):
            slug = entry.get("slug") if isinstance(entry, dict) else None
            yield f"group {name or number}, topic {slug or position}", name, entry


def _topic(group: object, entry: object) -> CuratedTopic:
    """Return the topic of an entry. Raises ValueError."""
    keys = {"slug", "name", "query"}
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in keys):
        raise ValueError("needs a slug, a name and a query")
    if unknown := sorted(entry.keys() - keys):
        raise ValueError(f"unknown keys: {', '.join(unknown)}")
    if not isinstance(group, str) or not group:
        raise ValueError("its group needs a name")
    name, query = entry["name"].strip(), " ".join(entry["query"].split())
    if not _SLUG.fullmatch(entry["slug"]):
        raise ValueError("the slug must have lower-case letters, digits and hyphens only")
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"the name must be one line of at most {LONGEST_NAME} characters")
    try:
        parsed = parse_topic(query)
    except QueryError as error:
        raise ValueError(f"the query cannot be parsed: {error.message}") from error
    return CuratedTopic(entry["slug"], name, group, query, parsed)


def _conflicts(topics: Iterable[CuratedTopic]) -> Iterator[str]:
    """Yield a sentence for each value that two topics share, and for a missing Trending."""
    seen: dict[tuple[str, str], str] = {}
    for topic in topics:
        values = {
            "slug": topic.slug,
            "name": topic.name.casefold(),
            "query": topic.parsed.text,
        }
        for key, value in values.items():
            if (key, value) in seen:
                yield f"topic {topic.slug}: has the same {key} as {seen[key, value]}"
            seen[key, value] = topic.slug
    if seen.get(("query", parse_topic(TRENDING).text)) != TRENDING:
        yield f"needs a topic with the slug and the query {TRENDING}"
