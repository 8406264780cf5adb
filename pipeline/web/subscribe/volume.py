"""Describe a topic's volume in papers a day, and suggest a narrower or broader query. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from pipeline.matching.suggestions import Count, least_broader
from pipeline.translations import gettext, gettext_noop, ngettext
from pipeline.web.subscribe.form_input import FieldError

NARROWER = 0.7  # times a topic's papers, at most, that a narrower query finds
OVERLAP: Final = 0.5  # share of a topic's papers that another also matches, to be reported
LEAST_SHARED: Final = 3  # papers
DROWNS: Final = gettext_noop(
    "That is a lot. The best come first. A narrower topic finds more relevant papers."
)
BARREN: Final = gettext_noop(
    "Try another spelling. The sources of this site may not cover this field."
)
STARVES: Final = gettext_noop("That is rare. On a day without a paper for you, no email is sent.")


@dataclass(frozen=True, slots=True)
class Volume:
    """Volume of a topic, or of all topics together, as shown in the preview."""

    label: str
    pace: str = ""  # "about 12 papers a day"
    silence: str = ""  # "none on 3 of 20 days"
    hint: str = ""
    mistake: FieldError | None = None
    instead: tuple[Instead, ...] = ()


@dataclass(frozen=True, slots=True)
class Instead:
    """Suggested query in place of a topic, with its volume."""

    word: str  # "Narrower", "Broader", "Did you mean"
    query: str
    pace: str


def count(per_day: Mapping[date, int], days: Sequence[date]) -> Count:
    """Return the totals of `per_day`; `days` are all days with papers, sorted and not empty."""
    span = (days[-1] - days[0]).days + 1
    return Count(sum(per_day.values()), len(days) - len(per_day), len(days), span)


def volume(
    label: str, counted: Count, *, more: Iterable[str] = (), instead: tuple[Instead, ...] = ()
) -> Volume:
    """Return the volume of a topic; `more` are sentences to show before the hint.

    If there are no papers, they or the suggestions replace the hint: they say why.
    """
    remarks = [text for text in more if text]
    if counted.papers or not (remarks or instead):
        remarks.append(_hint(counted))
    silent = counted.silent if counted.papers else 0
    return Volume(
        label,
        pace=pace(counted),
        silence=ngettext(
            "none on %(silent)s of %(num)s day",
            "none on %(silent)s of %(num)s days",
            counted.days,
            silent=silent,
        )
        if silent
        else "",
        hint=" ".join(remarks).strip(),
        instead=instead,
    )


def pace(counted: Count) -> str:
    """Return papers a day; papers a week if below one a day; else the total of the window."""
    if not counted.papers:
        return gettext("no papers in these days")
    if counted.a_day >= 1:
        return ngettext(
            "about %(num)s paper a day", "about %(num)s papers a day", round(counted.a_day)
        )
    if counted.a_week >= 1:
        return ngettext(
            "about %(num)s paper a week", "about %(num)s papers a week", round(counted.a_week)
        )
    return ngettext(
        "%(num)s paper in %(days)s days",
        "%(num)s papers in %(days)s days",
        counted.papers,
        days=counted.span,
    )


def narrower(counted: Count, others: Mapping[str, Count]) -> Instead | None:
    """Return the candidate with the most papers, at most `NARROWER` times the topic's, or None.

    A candidate without papers is never suggested.
    """
    fewer = {q: one for q, one in others.items() if 0 < one.papers <= NARROWER * counted.papers}
    best = max(fewer, key=lambda query: fewer[query].papers, default=None)
    return None if best is None else Instead(gettext("Narrower"), best, pace(fewer[best]))


def broader(counted: Count, others: Mapping[str, Count]) -> Instead | None:
    """Return the broader candidate with the fewest papers, or None; see `least_broader`."""
    best = least_broader(counted, others)
    return None if best is None else Instead(gettext("Broader"), best, pace(others[best]))


def overlap(own: Collection[int], others: Mapping[str, Collection[int]]) -> str:
    """Return a sentence about the topic that shares the most papers.

    "" if no other topic matches at least `LEAST_SHARED` of the papers and `OVERLAP` of them.
    """
    papers = set(own)
    shared = {label: len(papers.intersection(theirs)) for label, theirs in others.items()}
    best = max(shared, key=lambda label: shared[label], default="")
    if not best or shared[best] < max(LEAST_SHARED, OVERLAP * len(papers)):
        return ""
    return ngettext(
        "%(shared)s of its %(num)s paper also matches “%(topic)s”.",
        "%(shared)s of its %(num)s papers also match “%(topic)s”.",
        len(papers),
        shared=shared[best],
        topic=best,
    )


def _hint(counted: Count) -> str:
    if not counted.papers:
        return gettext(BARREN)
    if counted.is_flood:
        return gettext(DROWNS)
    return gettext(STARVES) if counted.is_trickle else ""
