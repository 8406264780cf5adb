"""The form of wishes: what was typed, what is wrong with it, and what it asks for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import time
from functools import lru_cache
from typing import Final

from pipeline.domain import Breadth, Frequency, Schedule, Weekday
from pipeline.errors import AddressError, QueryError
from pipeline.matching.hints import hints
from pipeline.matching.query import canonical
from pipeline.signup import Wishes, valid_address
from pipeline.web import curated, typos, zones
from pipeline.web.curated import BY_SLUG, CuratedTopic
from pipeline.web.forms import Fields

MOST_QUERIES: Final = 20  # lines of one's own
LONGEST_QUERY: Final = 500  # characters of one
MOST_TOPICS: Final = 50  # chosen and own ones together
MOST_PAPERS: Final = 50  # in one digest
AROUND: Final = 30  # characters shown on either side of a mistake
DAILY, WEEKLY = Frequency.DAILY.value, Frequency.WEEKLY.value

HOURS: Final = tuple((str(hour), f"{hour:02}:00") for hour in range(24))
SIZES: Final = (5, 10, 15, 20, 30, 40, 50)
RHYTHMS: Final = (
    (DAILY, "Every day"),
    (Frequency.WEEKDAYS.value, "Monday to Friday"),
    *((f"{WEEKLY}-{day.name.lower()}", f"Every {day.name.capitalize()}") for day in Weekday),
)


def spelled(breadth: Breadth) -> str:
    """As a form sends it."""
    return breadth.name.lower()


BREADTHS: Final = (
    (spelled(Breadth.FEWER), "Fewer, surer"),
    (spelled(Breadth.BALANCED), "Balanced"),
    (spelled(Breadth.MORE), "More, broader"),
)


@dataclass(frozen=True, slots=True)
class Typed:
    """The form as it stands, right or wrong."""

    email: str = ""
    insists: bool = False  # on this address, having been asked about it
    slugs: tuple[str, ...] = ()  # topics chosen by name
    queries: str = ""  # own ones, one in each line
    hour: str = "8"
    timezone: str = ""  # "" while nobody has chosen one
    rhythm: str = DAILY  # one of RHYTHMS
    max_papers: str = "10"
    breadth: str = spelled(Breadth.BALANCED)  # one of BREADTHS

    @property
    def lines(self) -> tuple[str, ...]:
        """Own queries, each once."""
        return tuple(dict.fromkeys(filter(None, map(str.strip, self.queries.split("\n")))))

    @property
    def chosen(self) -> tuple[CuratedTopic, ...]:
        return tuple(BY_SLUG[slug] for slug in dict.fromkeys(self.slugs) if slug in BY_SLUG)


@dataclass(frozen=True, slots=True)
class Mistake:
    """What is wrong in one field, and where, if it is a matter of one character."""

    field: str
    text: str
    before: str = ""
    at: str = ""
    after: str = ""
    suggestion: str = ""  # what was most likely meant, to be taken by one press
    kept: str = ""  # what was typed, where it may be kept by one press


@dataclass(frozen=True, slots=True)
class Asked:
    """A topic that the form asks for, as it may be tried out."""

    label: str
    query: str  # canonical; "" where it cannot be read
    mistake: Mistake | None = None
    hints: tuple[str, ...] = ()  # what may have been meant


def read(fields: Fields) -> Typed:
    """What was typed; only a field that was not sent at all has its default."""
    blank = Typed()
    rhythm = fields.get("frequency", blank.rhythm)
    if rhythm == WEEKLY:
        rhythm = f"{WEEKLY}-{fields.get('weekday', 'monday').lower()}"
    email = (fields.get("suggested") or fields.get("email", "")).strip()
    return Typed(
        email=email,
        insists=bool(email) and email in fields.getlist("insist"),
        slugs=tuple(fields.getlist("topic")),
        queries=fields.get("queries", ""),
        hour=_hour(fields.get("hour", blank.hour)),
        timezone=fields.get("timezone", "").strip(),
        rhythm=rhythm,
        max_papers=fields.get("max_papers", blank.max_papers).strip(),
        breadth=fields.get("breadth", blank.breadth).strip(),
    )


def _hour(typed: str) -> str:
    """ "8" of "8", "08" and "08:00"; anything else as it is."""
    hour = typed.strip().removesuffix(":00")
    return str(int(hour)) if len(hour) == 2 and hour.isascii() and hour.isdecimal() else hour


def prefilled(topics: Iterable[str], max_papers: int) -> Typed:
    """The form before anybody typed: `topics` are slugs or queries; without any, Trending."""
    given = [" ".join(topic.split())[:LONGEST_QUERY] for topic in topics][:MOST_QUERIES]
    slugs = tuple(topic for topic in given if topic in BY_SLUG)
    own = "\n".join(topic for topic in given if topic and topic not in BY_SLUG)
    if not slugs and not own:
        slugs = ("trending",)
    return Typed(slugs=slugs, queries=own, max_papers=str(max_papers))


def wishes(typed: Typed) -> Wishes:
    """What a form without mistakes asks for."""
    queries, names = curated.queries((*(topic.name for topic in typed.chosen), *typed.lines))
    frequency, _, day = typed.rhythm.partition("-")
    schedule = Schedule(
        at=time(int(typed.hour)),
        timezone=typed.timezone or "UTC",
        frequency=Frequency(frequency),
        weekday=Weekday[day.upper()] if day else Weekday.MONDAY,
    )
    most, wanted = size(typed.max_papers) or SIZES[0], breadth(typed.breadth)
    return Wishes(queries, schedule, most, names, wanted or Breadth.BALANCED)


def breadth(typed: str) -> Breadth | None:
    """How much they want to see; None where the form does not say so."""
    return Breadth[typed.upper()] if typed in dict(BREADTHS) else None


def size(max_papers: str) -> int | None:
    """How many papers one digest may hold; None where the form does not say so."""
    number = int(max_papers) if re.fullmatch("[0-9]{1,3}", max_papers) else 0
    return number if 1 <= number <= MOST_PAPERS else None


def sizes(max_papers: str) -> list[int]:
    """What can be chosen, among it what is chosen."""
    return sorted({*SIZES, size(max_papers) or SIZES[0]})


def asked(typed: Typed) -> tuple[Asked, ...]:
    """The topics one by one; a query that cannot be read comes with its mistake."""
    chosen = [Asked(topic.name, _canonical(topic.query)) for topic in typed.chosen]
    own = [_asked(line) for line in typed.lines[:MOST_QUERIES]]
    return tuple([*chosen, *own][:MOST_TOPICS]) or (Asked("Trending", _canonical("Trending")),)


def _asked(line: str) -> Asked:
    mistake = _wrong_query(line)
    [query], names = curated.queries([line])
    if mistake:
        return Asked(line, "", mistake)
    told = () if query in names else tuple(f"{_sentence(hint.text)}." for hint in hints(line))
    return Asked(names.get(query) or line, _canonical(query), hints=told)


@lru_cache(maxsize=256)  # of at most 500 letters, and of topics to choose
def _canonical(query: str) -> str:
    return canonical(query)


# --- Mistakes -----------------------------------------------------------------------------------


def mistakes(typed: Typed) -> tuple[Mistake, ...]:
    """Everything that is wrong, in the order of the form."""
    return (
        *_wrong_topics(typed),
        *_unless(
            typed.rhythm in dict(RHYTHMS), "frequency", "Choose how often you want the digest."
        ),
        *_unless(typed.hour in dict(HOURS), "hour", "Choose a full hour between 00:00 and 23:00."),
        *_wrong_zone(typed.timezone),
        *_unless(
            size(typed.max_papers) is not None,
            "max_papers",
            f"Choose a number of papers from 1 to {MOST_PAPERS}.",
        ),
        *_unless(breadth(typed.breadth) is not None, "breadth", "Choose how sure a match must be."),
        *wrong_address(typed.email, insists=typed.insists),
    )


def _unless(fine: bool, field: str, text: str) -> tuple[Mistake, ...]:
    return () if fine else (Mistake(field, text),)


def _wrong_topics(typed: Typed) -> list[Mistake]:
    if len(typed.lines) > MOST_QUERIES:
        return [
            Mistake("queries", f"These are {len(typed.lines)} lines; {MOST_QUERIES} are the most.")
        ]
    if len(typed.lines) + len(typed.chosen) > MOST_TOPICS:
        return [Mistake("topics", f"Choose at most {MOST_TOPICS} topics in all.")]
    return [mistake for line in typed.lines if (mistake := _wrong_query(line))]


def _wrong_query(line: str) -> Mistake | None:
    if len(line) > LONGEST_QUERY:
        text = f"A topic has at most {LONGEST_QUERY} characters; this one has {len(line)}."
        return Mistake("queries", text, before=_head(line))
    try:
        canonical(line)
    except QueryError as error:
        return _pointed(line, error)
    return None


def _pointed(line: str, error: QueryError) -> Mistake:
    at = min(error.position, len(line))
    before, after = line[:at], line[at + 1 :]
    return Mistake(
        "queries",
        f"{_sentence(error.message)}.",
        before=f"…{before[-AROUND:]}" if len(before) > AROUND else before,
        at=line[at : at + 1] or " ",
        after=_head(after),
    )


def _sentence(message: str) -> str:
    """With a capital; but `au:` is written so."""
    begins_with_field = message.partition(" ")[0].endswith(":")
    return message if begins_with_field else f"{message[:1].upper()}{message[1:]}"


def _head(text: str) -> str:
    return f"{text[:AROUND]}…" if len(text) > AROUND else text


def _wrong_zone(name: str) -> tuple[Mistake, ...]:
    fine = not name or zones.is_known(name)
    return _unless(
        fine, "timezone", f"The time zone “{_head(name)}” is not known. Choose one from the list."
    )


def wrong_address(email: str, *, insists: bool = False) -> tuple[Mistake, ...]:
    """What is wrong with an address, or looks wrong unless its owner `insists`."""
    if not email:
        return (Mistake("email", "Type the address that your digest is to go to."),)
    doubted = typos.doubt(email)
    if doubted and not (insists and doubted.may_insist):
        text = f"Did you mean {doubted.suggestion}?"
        kept = email if doubted.may_insist else ""
        return (Mistake("email", text, suggestion=doubted.suggestion, kept=kept),)
    try:
        valid_address(email)
    except AddressError as error:
        return (Mistake("email", f"We cannot write to this address. {error.__cause__}"),)
    domain = email.rpartition("@")[2]
    if typos.is_numeric(domain):
        return (Mistake("email", "After the @ we need a domain such as example.org, not numbers."),)
    return _unless(
        "." in domain, "email", "Is this all of it? After the @ we miss something like “.org”."
    )
