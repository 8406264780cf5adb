"""Find stored rows that cannot be read; at runtime they are set aside, one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sqlalchemy import Connection

from pipeline.doctor.finding import Check, Finding, Patient, bad, good, unknown
from pipeline.errors import QueryError
from pipeline.matching.query import parse
from pipeline.storage import deliveries, papers, source_states, subscribers, topics
from pipeline.storage.database import reading

NAMED: Final = 5  # rows named in one finding; the others are only counted

Trial = Callable[[Connection], Iterable[tuple[object, str]]]
"""Try all rows of one kind; return the id of each unreadable row, and the error."""


def stored_rows(patient: Patient) -> Iterator[Finding]:
    """Try to read every row as ingest, compiling and sending would."""
    if patient.database_trouble:
        yield unknown("stored rows", "the database cannot be asked")
        return
    all_good = True
    with reading(patient.services.engine) as conn:
        for kind, (trial, advice) in TRIALS.items():
            wrong = [f"{kind} {id_} ({why[:80]})" for id_, why in trial(conn)]
            if wrong:
                all_good = False
                more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
                named = "; ".join(wrong[:NAMED])
                yield bad("stored rows", f"{len(wrong)} set aside: {named}{more}", advice)
    if all_good:
        yield good("stored rows", "every topic, reader, paper, source and delivery can be handled")


def _topics(conn: Connection) -> Iterator[tuple[object, str]]:
    for topic in topics.followed(conn):
        try:
            parse(topic.query)
        except QueryError as error:
            yield topic.id, error.message


TRIALS: Final[dict[str, tuple[Trial, str]]] = {
    "topic": (
        _topics,
        "its readers get the rest of their topics: ask them to write it anew, or correct its "
        "query in the table topics",
    ),
    "subscriber": (
        subscribers.unreadable,
        "no digest comes until they store valid choices on their page, or you do in the table "
        "subscribers",
    ),
    "paper": (papers.unreadable, "nobody gets it: delete it, and its source brings it again"),
    "source": (
        source_states.unreadable,
        "delete its row in the table source_states: it is then read anew",
    ),
    "delivery": (
        deliveries.unreadable,
        "a newer version of Paperboy may have made it: install that, or let it expire",
    ),
}

CHECKS: tuple[Check, ...] = (stored_rows,)
