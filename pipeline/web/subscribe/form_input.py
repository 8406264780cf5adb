"""Form of topics and schedule: its options, parsing, validation, conversion to `Choices`. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import time
from functools import cache, cached_property
from importlib.resources import files
from itertools import zip_longest
from typing import Any, Final
from zoneinfo import available_timezones

from starlette.datastructures import ImmutableMultiDict

from pipeline.domain import NEAR_MISSES_AFTER, TRENDING, Breadth, Frequency, Schedule, Weekday
from pipeline.errors import AddressError, QueryError
from pipeline.matching.query import TopicQuery, parse_topic
from pipeline.matching.suggestions import hints
from pipeline.rendering import formatting, views
from pipeline.signup import Choices, valid_address
from pipeline.translations import gettext, gettext_noop
from pipeline.web.subscribe import curated, typos
from pipeline.web.subscribe.curated import CuratedTopic

MOST_QUERIES: Final = 20  # typed queries, one a line
LONGEST_QUERY: Final = 500  # characters of a query
MOST_TOPICS: Final = 50  # curated topics and typed queries together
MOST_PAPERS: Final = 50  # in one digest
LONGEST_NAME: Final = curated.LONGEST_NAME  # characters of a reader's name for a topic
AROUND: Final = 30  # characters shown on either side of a syntax error
DAILY, WEEKLY = Frequency.DAILY.value, Frequency.WEEKLY.value

HOURS: Final = tuple((str(hour), f"{hour:02}:00") for hour in range(24))
SIZES: Final = (5, 10, 15, 20, 30, 40, 50)
RHYTHMS: Final = (
    (DAILY, gettext_noop("Every day")),
    (Frequency.WEEKDAYS.value, gettext_noop("Monday to Friday")),
    (f"{WEEKLY}-monday", gettext_noop("Every Monday")),
    (f"{WEEKLY}-tuesday", gettext_noop("Every Tuesday")),
    (f"{WEEKLY}-wednesday", gettext_noop("Every Wednesday")),
    (f"{WEEKLY}-thursday", gettext_noop("Every Thursday")),
    (f"{WEEKLY}-friday", gettext_noop("Every Friday")),
    (f"{WEEKLY}-saturday", gettext_noop("Every Saturday")),
    (f"{WEEKLY}-sunday", gettext_noop("Every Sunday")),
)


def breadth_value(breadth: Breadth) -> str:
    """Return the value of a breadth in the form."""
    return breadth.name.lower()


NEAR_MISSES: Final = (
    ("0", gettext_noop("No email")),
    ("1", gettext_noop("The two nearest papers")),
    ("3", gettext_noop("The two nearest, after three days")),
    ("7", gettext_noop("The two nearest, after a week")),
)
BREADTHS: Final = tuple((breadth_value(one), label) for one, label in views.BREADTHS.items())


def _translated(options: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return (value, label) pairs with their labels translated."""
    return tuple((value, gettext(label)) for value, label in options)


@dataclass(frozen=True, slots=True)
class FollowedTopic:
    """Followed topic on the page of preferences, where it can be changed and named."""

    query: str
    name: str = ""  # the reader's own

    @property
    def curated(self) -> CuratedTopic | None:
        return curated.in_use().by_query.get(self.query)

    @property
    def unnamed(self) -> str:
        """Return the label without a name."""
        return self.curated.name if self.curated else self.query

    @property
    def label(self) -> str:
        return self.name or self.unnamed


@dataclass(frozen=True)  # without slots: the entries are cached in the instance
class FormInput:
    """Submitted form, before validation."""

    email: str = ""
    insists: bool = False  # the visitor keeps this address despite the suggestion
    slugs: tuple[str, ...] = ()  # curated topics
    queries: str = ""  # typed queries, one a line
    followed: tuple[FollowedTopic, ...] = ()
    hour: str = "8"
    timezone: str = ""  # "" if none is chosen
    rhythm: str = DAILY  # one of RHYTHMS
    max_papers: str = "10"
    breadth: str = breadth_value(Breadth.BALANCED)  # one of BREADTHS
    near_misses_after: str = str(NEAR_MISSES_AFTER)  # one of NEAR_MISSES
    papers: str = ""  # a list of papers to start from, see `references.parse`

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the typed queries without blank lines and duplicates."""
        return tuple(dict.fromkeys(filter(None, map(str.strip, self.queries.split("\n")))))

    @cached_property
    def kept(self) -> tuple[TopicEntry, ...]:
        """Return the followed topics, at most `MOST_TOPICS`: each is parsed once."""
        return tuple(
            _followed_entry(number, one) for number, one in enumerate(self.followed[:MOST_TOPICS])
        )

    @cached_property
    def own(self) -> tuple[TopicEntry, ...]:
        """Return the topics of the typed lines, at most `MOST_QUERIES`: each is parsed once."""
        return tuple(map(_entry, self.lines[:MOST_QUERIES]))

    @property
    def chosen(self) -> tuple[CuratedTopic, ...]:
        known = curated.in_use().by_slug
        return tuple(known[slug] for slug in dict.fromkeys(self.slugs) if slug in known)


@dataclass(frozen=True, slots=True)
class FieldError:
    """Validation error of one field, with the text around it if it has a position."""

    field: str
    text: str
    before: str = ""
    at: str = ""
    after: str = ""
    suggestion: str = ""  # corrected value, offered as a button
    kept: str = ""  # the typed value, offered as a button if it may be kept


@dataclass(frozen=True, slots=True)
class TopicEntry:
    """Topic of the form, for the preview."""

    label: str
    query: TopicQuery | None  # None if it cannot be parsed
    mistake: FieldError | None = None
    hints: tuple[str, ...] = ()  # sentences about a likely error in a valid query
    corrections: tuple[str, ...] = ()  # the queries that were probably meant


def parse(fields: ImmutableMultiDict[str, str]) -> FormInput:
    """Parse the submitted fields; a default applies only if a field is missing, not if empty."""
    blank = FormInput()
    rhythm = fields.get("frequency", blank.rhythm)
    if rhythm == WEEKLY:
        rhythm = f"{WEEKLY}-{fields.get('weekday', 'monday').lower()}"
    email = (fields.get("suggested") or fields.get("email", "")).strip()
    return FormInput(
        email=email,
        insists=bool(email) and email in fields.getlist("insist"),
        slugs=tuple(fields.getlist("topic")),
        queries=fields.get("queries", ""),
        followed=_followed(fields),
        hour=_hour(fields.get("hour", blank.hour)),
        timezone=fields.get("timezone", "").strip(),
        rhythm=rhythm,
        max_papers=fields.get("max_papers", blank.max_papers).strip(),
        breadth=fields.get("breadth", blank.breadth).strip(),
        near_misses_after=fields.get("near_misses_after", blank.near_misses_after).strip(),
        papers=papers(fields),
    )


def papers(fields: ImmutableMultiDict[str, str]) -> str:
    """Return the list of papers as it was entered, so that line numbers hold; "" if it is blank."""
    text = fields.get("papers", "")
    return text if text.strip() else ""


def _followed(fields: ImmutableMultiDict[str, str]) -> tuple[FollowedTopic, ...]:
    """Parse the rows of followed topics, without those to remove and those without a query."""
    queries, names = fields.getlist("query"), fields.getlist("name")
    removed = {*fields.getlist("remove")}  # the numbers of rows
    rows = zip_longest(queries, names[: len(queries)], fillvalue="")
    return tuple(
        FollowedTopic(" ".join(query.split()), formatting.clean(name))
        for number, (query, name) in enumerate(rows)
        if query.strip() and str(number) not in removed
    )


def _hour(text: str) -> str:
    """Normalise "08" and "08:00" to "8"; return anything else unchanged."""
    hour = text.strip().removesuffix(":00")
    return str(int(hour)) if len(hour) == 2 and hour.isascii() and hour.isdecimal() else hour


def prefilled(topics: Iterable[str], max_papers: int) -> FormInput:
    """Return the initial form with these topics, which are slugs or queries."""
    given = [" ".join(topic.split())[:LONGEST_QUERY] for topic in topics][:MOST_QUERIES]
    known = curated.in_use().by_slug
    slugs = tuple(topic for topic in given if topic in known)
    own = "\n".join(topic for topic in given if topic and topic not in known)
    return FormInput(slugs=slugs, queries=own, max_papers=str(max_papers))


def adopt(form: FormInput, adopted: str) -> FormInput:
    """Return the form with a topic replaced by a suggested query.

    `adopted` is the label of the topic and the query, in two lines: the value of the button.
    """
    label, _, query = adopted.partition("\n")
    query = " ".join(query.split())
    if not 0 < len(query) <= LONGEST_QUERY:
        return form
    followed = tuple(
        replace(one, query=query) if one.label == label else one for one in form.followed
    )
    slugs = tuple(one.slug for one in form.chosen if one.name != label)
    named = curated.in_use().named
    lines = [
        query if (topic.name if (topic := named(line)) else line) == label else line
        for line in form.lines
    ]
    if followed == form.followed and tuple(lines) == form.lines:
        lines.append(query)
    return replace(form, followed=followed, slugs=slugs, queries="\n".join(lines))


def choices(form: FormInput) -> Choices:
    """Convert a validated form."""
    topics: dict[str, TopicEntry] = {}
    for one in _entries(form):
        if one.query:
            topics.setdefault(one.query.typed, one)  # a followed topic comes first, with its name
    names = {text: one.label for text, one in topics.items() if one.label != text}
    frequency, _, day = form.rhythm.partition("-")
    schedule = Schedule(
        at=time(int(form.hour)),
        timezone=form.timezone or "UTC",
        frequency=Frequency(frequency),
        weekday=Weekday[day.upper()] if day else Weekday.MONDAY,
    )
    most, wanted = size(form.max_papers) or SIZES[0], breadth(form.breadth)
    queries = tuple(one.query for one in topics.values() if one.query)
    return Choices(
        queries,
        schedule,
        most,
        names,
        wanted or Breadth.BALANCED,
        int(form.near_misses_after),
    )


def breadth(name: str) -> Breadth | None:
    """Parse the breadth; None if it is not one of `BREADTHS`."""
    return Breadth[name.upper()] if name in dict(BREADTHS) else None


def size(max_papers: str) -> int | None:
    """Parse the papers in one digest; None if it is no number from 1 to `MOST_PAPERS`."""
    number = int(max_papers) if re.fullmatch("[0-9]{1,3}", max_papers) else 0
    return number if 1 <= number <= MOST_PAPERS else None


def options(form: FormInput, silent: Collection[str] = ()) -> dict[str, Any]:
    """Return what the templates of the form show: its values, and the options of each field.

    Curated topics that are followed or in `silent` are not offered, unless they are chosen.
    """
    followed = {topic.slug for one in form.followed if (topic := one.curated)}
    groups = offered({*silent, *followed} - {*form.slugs})
    return {
        "typed": form,
        "longest_name": LONGEST_NAME,
        "groups": groups,
        "curated": sum(len(topics) for _, topics in groups),
        "hours": HOURS,
        "rhythms": _translated(RHYTHMS),
        "sizes": _sizes(form.max_papers),
        "breadths": _translated(BREADTHS),
        "near_misses": _translated(NEAR_MISSES),
        "regions": zones_by_region(),
        "listed": is_listed_zone(form.timezone),
        "schedule": schedule_line(form),
    }


def offered(silent: Collection[str]) -> list[tuple[str, list[CuratedTopic]]]:
    """Return the groups of curated topics without those in `silent`, and without empty groups."""
    groups = (
        (name, [topic for topic in topics if topic.slug not in silent])
        for name, topics in curated.in_use().groups
    )
    return [(name, topics) for name, topics in groups if topics]


def schedule_line(form: FormInput) -> str:
    """Return the schedule as "Every day, 08:00, Paris", without invalid values."""
    rhythm, zone = dict(RHYTHMS).get(form.rhythm), form.timezone or "UTC"
    place = city_of_zone(zone) if is_known_zone(zone) else ""
    return ", ".join(filter(None, (rhythm and gettext(rhythm), dict(HOURS).get(form.hour), place)))


def _sizes(max_papers: str) -> list[int]:
    """Return the sizes to choose from, including the current value if it is valid."""
    return sorted({*SIZES, size(max_papers) or SIZES[0]})


def topic_entries(form: FormInput) -> tuple[TopicEntry, ...]:
    """Return at most `MOST_TOPICS` topics, Trending if there are none.

    An invalid query is returned with its error.
    """
    found = _entries(form)[:MOST_TOPICS]
    return found or (TopicEntry("Trending", curated.in_use().by_slug[TRENDING].parsed),)


def _entries(form: FormInput) -> tuple[TopicEntry, ...]:
    chosen = (TopicEntry(topic.name, topic.parsed) for topic in form.chosen)
    return (*form.kept, *chosen, *form.own)


def _followed_entry(number: int, topic: FollowedTopic) -> TopicEntry:
    """Parse a followed topic; its field is named after its `number`."""
    if topic.curated:
        return TopicEntry(topic.label, topic.curated.parsed)
    entry = _parsed(topic.query)
    mistake = entry.mistake and replace(entry.mistake, field=f"query-{number}")
    return replace(entry, label=topic.label, mistake=mistake)


def _entry(line: str) -> TopicEntry:
    """Parse one typed line, which may be the name of a curated topic instead of a query."""
    chosen = curated.in_use().named(line)
    return TopicEntry(chosen.name, chosen.parsed) if chosen else _parsed(line)


def _parsed(line: str) -> TopicEntry:
    if len(line) > LONGEST_QUERY:
        text = gettext(
            "A topic has at most %(most)s characters. This one has %(number)s.",
            most=LONGEST_QUERY,
            number=len(line),
        )
        return TopicEntry(line, None, FieldError("queries", text, before=_head(line)))
    try:
        query = parse_topic(line)
    except QueryError as error:
        return TopicEntry(line, None, _pointed(line, error))
    found = hints(line)
    return TopicEntry(
        line,
        query,
        hints=tuple(f"{_sentence(hint.text)}." for hint in found),
        corrections=tuple(hint.query for hint in found if hint.query),
    )


# --- Validation ---------------------------------------------------------------------------------


def validate(form: FormInput) -> tuple[FieldError, ...]:
    """Validate the form; return all errors in the order of the fields, empty if it is valid."""
    return (
        *_wrong_topics(form),
        *_unless(
            form.rhythm in dict(RHYTHMS),
            "frequency",
            gettext("Choose how often you want the digest."),
        ),
        *_unless(
            form.hour in dict(HOURS),
            "hour",
            gettext("Choose a full hour between 00:00 and 23:00."),
        ),
        *_wrong_zone(form.timezone),
        *_unless(
            size(form.max_papers) is not None,
            "max_papers",
            gettext("Choose a number of papers from 1 to %(most)s.", most=MOST_PAPERS),
        ),
        *_unless(
            breadth(form.breadth) is not None, "breadth", gettext("Choose how strict matching is.")
        ),
        *_unless(
            form.near_misses_after in dict(NEAR_MISSES),
            "near_misses_after",
            gettext("Choose what is sent on days without a match."),
        ),
        *wrong_address(form.email, insists=form.insists),
    )


def _unless(fine: bool, field: str, text: str) -> tuple[FieldError, ...]:
    return () if fine else (FieldError(field, text),)


def too_many_topics(form: FormInput) -> list[FieldError]:
    """Return an error if there are more topics than a reader can have, at most one."""
    own = len(form.lines) + sum(one.curated is None for one in form.followed)
    if own > MOST_QUERIES:
        return [
            FieldError(
                "queries",
                gettext(
                    "Enter at most %(most)s topics of your own, not %(number)s.",
                    most=MOST_QUERIES,
                    number=own,
                ),
            )
        ]
    if len(form.lines) + len(form.chosen) + len(form.followed) > MOST_TOPICS:
        return [
            FieldError(
                "topics", gettext("Choose at most %(most)s topics in total.", most=MOST_TOPICS)
            )
        ]
    return []


def _wrong_topics(form: FormInput) -> list[FieldError]:
    return too_many_topics(form) or [
        *(one.mistake for one in form.kept if one.mistake),
        *_wrong_names(form),
        *(one.mistake for one in form.own if one.mistake),
    ]


def _wrong_names(form: FormInput) -> Iterator[FieldError]:
    """Yield an error for each name that is too long, or that another topic has."""
    labels = Counter(one.label.casefold() for one in _entries(form))
    for number, one in enumerate(form.followed):
        if len(one.name) > LONGEST_NAME:
            text = gettext(
                "A name has at most %(most)s characters. This one has %(number)s.",
                most=LONGEST_NAME,
                number=len(one.name),
            )
            yield FieldError(f"name-{number}", text)
        elif one.name and labels[one.name.casefold()] > 1:
            text = gettext(
                "Two topics are called “%(name)s”. Give each its own name.", name=one.name
            )
            yield FieldError(f"name-{number}", text)


def _pointed(line: str, error: QueryError) -> FieldError:
    at = min(error.position, len(line))
    before, after = line[:at], line[at + 1 :]
    return FieldError(
        "queries",
        f"{_sentence(error.message)}.",
        before=f"…{before[-AROUND:]}" if len(before) > AROUND else before,
        at=line[at : at + 1] or " ",
        after=_head(after),
    )


def _sentence(message: str) -> str:
    """Capitalise a message, unless it begins with the name of a field such as `au:`."""
    begins_with_field = message.partition(" ")[0].endswith(":")
    return message if begins_with_field else f"{message[:1].upper()}{message[1:]}"


def _head(text: str) -> str:
    return f"{text[:AROUND]}…" if len(text) > AROUND else text


def _wrong_zone(name: str) -> tuple[FieldError, ...]:
    fine = not name or is_known_zone(name)
    return _unless(
        fine,
        "timezone",
        gettext("Unknown time zone “%(name)s”. Choose one from the list.", name=_head(name)),
    )


def wrong_address(email: str, *, insists: bool = False) -> tuple[FieldError, ...]:
    """Validate an address; a likely typo is an error, too, unless the visitor `insists`."""
    if not email:
        return (FieldError("email", gettext("Enter your email address.")),)
    doubted = typos.doubt(email)
    if doubted and not (insists and doubted.may_insist):
        text = gettext("Did you mean %(suggestion)s?", suggestion=doubted.suggestion)
        kept = email if doubted.may_insist else ""
        return (FieldError("email", text, suggestion=doubted.suggestion, kept=kept),)
    try:
        valid_address(email)
    except AddressError as error:
        return (
            FieldError(
                "email", gettext("This address is not valid. %(reason)s", reason=error.__cause__)
            ),
        )
    domain = email.rpartition("@")[2]
    if typos.is_numeric(domain):
        return (
            FieldError(
                "email", gettext("Enter a domain such as example.org after the @, not numbers.")
            ),
        )
    return _unless(
        "." in domain,
        "email",
        gettext("The address is incomplete: an ending such as “.org” is missing."),
    )


# --- Time zones ---------------------------------------------------------------------------------

REGIONS = (
    "Africa",
    "America",
    "Antarctica",
    "Arctic",
    "Asia",
    "Atlantic",
    "Australia",
    "Europe",
    "Indian",
    "Pacific",
)


@cache
def zones_by_region() -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    """Return (region, ((IANA name, city), ...)) for all zones in zone.tab, sorted; cached."""
    names = sorted(_inhabited())
    return tuple(
        (
            region,
            tuple((name, city_of_zone(name)) for name in names if name.startswith(f"{region}/")),
        )
        for region in REGIONS
        if any(name.startswith(f"{region}/") for name in names)
    )


def is_known_zone(name: str) -> bool:
    """Return whether `zoneinfo` has the zone, including old names that browsers still send."""
    return name in _known()


def is_listed_zone(name: str) -> bool:
    """Return whether the form lists the zone: a zone of zone.tab, UTC, or "" (none chosen)."""
    return name in {"", "UTC"} or name in _inhabited()


def city_of_zone(name: str) -> str:
    """Return "Buenos Aires, Argentina" for "America/Argentina/Buenos_Aires"."""
    _, *parts = name.split("/")
    return ", ".join(part.replace("_", " ") for part in reversed(parts)) or name


@cache
def _known() -> frozenset[str]:
    return frozenset(available_timezones())


@cache
def _inhabited() -> frozenset[str]:
    table = files("tzdata.zoneinfo").joinpath("zone.tab").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines() if not line.startswith("#"))
    return frozenset(row[2] for row in rows) & _known()
