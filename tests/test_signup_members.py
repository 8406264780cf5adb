"""Rows of lists become members, and members results of an import, without a database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from pipeline.domain import (
    Breadth,
    Frequency,
    Origin,
    SubscriberStatus,
    Subscription,
    SuppressionReason,
    Weekday,
)
from pipeline.errors import PaperboyError
from pipeline.signup import transfer
from pipeline.signup.csv_lists import OURS, Record
from pipeline.signup.members import Member, breadth, parse_member, weekday
from pipeline.signup.transfer import Import, ImportReport, export_row
from pipeline.storage.subscriber_transfer import ExistingSubscriber, StoredSubscriber
from pipeline.storage.suppressions import Suppression
from tests.support.factories import NOW, make_schedule, make_subscriber, make_topic

ADA, BOB = "ada@example.org", "bob@example.org"


# --- Rows ---------------------------------------------------------------------------------------


def read(
    cells: dict[str, str], *, is_ours: bool = True, confirmed: bool = False, problem: str = ""
) -> Member:
    record = Record(2, {"email": ADA, **cells}, (), problem)
    return parse_member(record, is_ours=is_ours, confirmed=confirmed, max_papers=10, now=NOW)


def test_every_column_of_an_exported_row_is_parsed():
    one = read(
        {
            "status": "active", "topics": "a; b", "names": "A; B", "hour": "6:30",
            "timezone": "Europe/Paris", "frequency": "Weekly", "weekday": "fr", "max_papers": "7",
            "breadth": "fewer", "paused_until": "2030-02-01", "joined_at": "2029-01-01T00:00:00",
            "confirmed_at": "2029-01-01T01:00:00+01:00", "consent_asked_at": "2029-01-01",
            "consent_at": "2029-01-02 00:00:00 UTC", "consent_origin": "form",
            "consent_wording": "2", "consent_ip": "192.0.2.1", "secret": "x" * 64,
            "last_slot_at": "2030-01-01T08:00:00Z", "last_edition_on": "2030-01-01",
            "covered_until": "2030-01-01T09:00:00Z", "welcome_due": "yes",
            "suppressed": "complaint", "suppressed_since": "2029-05-05",
        }
    )  # fmt: skip

    schedule = one.choices.schedule
    assert (schedule.at, schedule.timezone) == (time(6, 30), "Europe/Paris")
    assert (schedule.frequency, schedule.weekday) == (Frequency.WEEKLY, Weekday.FRIDAY)
    assert (one.choices.max_papers, one.choices.breadth) == (7, Breadth.FEWER)
    assert one.queries == (("a", "A"), ("b", "B"))
    assert (one.status, one.needs_confirmation, one.has_left) == (
        SubscriberStatus.ACTIVE,
        False,
        False,
    )
    assert one.joined_at == one.confirmed_at == datetime(2029, 1, 1, tzinfo=UTC)
    assert one.paused_until == date(2030, 2, 1)
    assert one.consent.requested_at == datetime(2029, 1, 1, tzinfo=UTC)
    assert one.consent.agreed_at == datetime(2029, 1, 2, tzinfo=UTC)
    assert (one.consent.origin, one.consent.wording) == (Origin.FORM, "2")
    assert (one.consent.ip, one.secret) == ("192.0.2.1", "x" * 64)
    assert one.last_slot_at == datetime(2030, 1, 1, 8, tzinfo=UTC)
    assert one.last_edition_on == date(2030, 1, 1)
    assert one.covered_until == datetime(2030, 1, 1, 9, tzinfo=UTC)
    assert one.welcome_due
    assert one.suppression == (SuppressionReason.COMPLAINT, datetime(2029, 5, 5, tzinfo=UTC))


def test_row_with_only_an_address_gets_default_wishes():
    one = read({}, is_ours=False)

    assert (one.status, one.needs_confirmation, one.welcome_due) == (
        SubscriberStatus.PENDING,
        True,
        False,
    )
    assert one.queries == (("trending", "Trending"),)
    assert (one.choices.max_papers, one.choices.breadth) == (10, Breadth.BALANCED)
    assert one.choices.schedule.at == time(8)
    assert one.suppression is None
    assert (one.joined_at, one.left_at, one.consent.agreed_at) == (None, None, None)


@pytest.mark.parametrize(("topics", "queries"), [("", ()), ("a", (("a", "a"),))])
def test_pending_exported_row_follows_its_topics(topics, queries):
    assert read({"status": "pending", "topics": topics}).queries == queries


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"email": ""}, "no email address"),
        ({"email": "ada"}, "ada"),
        ({"names": "A; B", "topics": "a"}, "names: 2 names of 1 topics"),
        ({"max_papers": "0"}, "0 is not between 1 and 50"),
        ({"max_papers": "51"}, "51 is not between 1 and 50"),
        ({"max_papers": "x"}, "max_papers: 'x' is not a number"),
        ({"hour": "24"}, "hour: '24' is not an hour"),
        ({"hour": "7:60"}, "hour: '7:60' is not an hour"),
        ({"hour": "seven"}, "is not an hour"),
        ({"frequency": "hourly"}, "frequency: 'hourly' is not one of"),
        ({"weekday": "m"}, "weekday: 'm' is not a day"),
        ({"weekday": "7"}, "weekday: '7' is not a day"),
        ({"breadth": "x"}, "breadth: 'x' is not fewer"),
        ({"timezone": "Mars"}, "Mars"),
        ({"topics": "a; ("}, r"topics: .*'\('"),
        ({"topics": "; ".join(map(str, range(500)))}, "topics: "),
        ({"joined_at": "x"}, "joined_at: 'x' is not a time"),
        ({"status": "active", "paused_until": "x"}, "paused_until: 'x' is not a day"),
        ({"status": "active", "secret": "x y"}, "secret: not from a Paperboy export"),
        ({"status": "active", "secret": "x" * 65}, "secret: not from a Paperboy export"),
        ({"status": "active", "suppressed": "x"}, "suppressed: 'x' is not one of"),
        ({"status": "active", "consent_origin": "x"}, "consent_origin: 'x' is not one of"),
        ({"status": "whatever"}, "status: 'whatever' is not a known status"),
    ],
)
def test_invalid_row_raises_with_the_reason(cells, reason):
    with pytest.raises(PaperboyError, match=reason):
        read(cells)


def test_record_with_a_problem_raises_it():
    with pytest.raises(PaperboyError, match="4 cells"):
        read({}, problem="4 cells")


@pytest.mark.parametrize(
    ("cells", "read_as"),
    [
        ({"max_papers": "50"}, 50),
        ({"max_papers": "1"}, 1),
        ({"hour": "0"}, time(0)),
        ({"hour": "23:59"}, time(23, 59)),
        ({"hour": "07.30"}, time(7, 30)),
        ({"hour": "7:00:00"}, time(7)),
        ({"timezone": "Pacific Time (US)"}, "UTC"),
        ({"timezone": "Europe/Paris"}, "Europe/Paris"),
        ({"joined_at": "yesterday"}, None),
    ],
)
def test_wishes_of_a_foreign_list_are_parsed(cells, read_as):
    one = read(cells, is_ours=False)

    schedule = one.choices.schedule
    found = {
        "max_papers": one.choices.max_papers, "hour": schedule.at, "timezone": schedule.timezone,
        "joined_at": one.joined_at,
    }  # fmt: skip
    assert found[next(iter(cells))] == read_as


@pytest.mark.parametrize("name", ["tuesday", " TUE", "tu", "1"])
def test_weekday_can_be_a_name_or_a_number(name):
    assert weekday(name) is Weekday.TUESDAY
    assert breadth(" More ") is Breadth.MORE


LEFT, PENDING = SubscriberStatus.UNSUBSCRIBED, SubscriberStatus.PENDING
MAY, JUNE = datetime(2029, 5, 1, tzinfo=UTC), datetime(2029, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cells", "status", "reason", "left_at"),
    [
        ({"kind": "regular"}, PENDING, None, None),
        ({"kind": "unknown"}, PENDING, None, None),
        ({"status": "Un-Subscribed"}, LEFT, None, None),
        ({"status": "subscribed", "left_on": "2029-05-01"}, LEFT, None, MAY),
        ({"left_at": "2029-05-01"}, LEFT, None, MAY),
        ({"left_at": "never"}, PENDING, None, None),
        ({"left_on": "2029-05-01", "bounced_on": "2029-06-01"}, LEFT, "hard", JUNE),
        ({"complained_on": "2029-05-01", "bounced_on": "2029-06-01"}, LEFT, "complaint", JUNE),
        ({"complained_on": "soon"}, LEFT, "complaint", NOW),
        ({"is_blocked": "1", "status": "unsubscribed"}, LEFT, "manual", NOW),
        ({"is_bounced": "1", "is_blocked": "1"}, LEFT, "hard", NOW),
        ({"is_bounced": "no", "is_complaint": "0", "is_left": "false"}, PENDING, None, None),
        ({"suppressed": "yes"}, LEFT, "manual", NOW),
        ({"suppressed": "no"}, PENDING, None, None),
        ({"is_subscribed": "no"}, LEFT, None, None),
        ({"is_subscribed": ""}, LEFT, None, None),
        ({"is_subscribed": "yes"}, PENDING, None, None),
        ({"is_subscribed": "yes", "status": "bounced"}, LEFT, "hard", NOW),
    ],
)
def test_most_severe_status_of_a_foreign_row_is_used(cells, status, reason, left_at):
    one = read(cells, is_ours=False)

    assert one.status is status
    assert one.needs_confirmation is (status is PENDING)
    found = one.suppression or (None, one.left_at)
    assert found == (reason, left_at)


@pytest.mark.parametrize(
    ("cells", "confirmed", "status", "needs_confirmation", "confirmed_at"),
    [
        ({"status": "pending"}, True, PENDING, False, None),
        ({"status": "active"}, False, PENDING, True, None),
        ({"status": "active"}, True, SubscriberStatus.ACTIVE, False, None),
        ({"consent_at": "2029-05-01"}, True, SubscriberStatus.ACTIVE, False, MAY),
        ({"confirmed_at": "2029-05-01"}, True, SubscriberStatus.ACTIVE, False, MAY),
        ({"confirmed_at": "2029-05-01"}, False, PENDING, True, None),
    ],
)
def test_only_the_operator_can_mark_foreign_rows_as_confirmed(
    cells, confirmed, status, needs_confirmation, confirmed_at
):
    one = read(cells, is_ours=False, confirmed=confirmed)

    assert (one.status, one.needs_confirmation, one.confirmed_at) == (
        status,
        needs_confirmation,
        confirmed_at,
    )


def test_consent_of_a_foreign_row_is_kept():
    one = read({"consent_asked_at": "2029-05-01", "consent_at": "2029-06-01",
                "confirmed_at": "2029-05-01", "optin_ip": "192.0.2.1"}, is_ours=False)  # fmt: skip

    assert (one.consent.requested_at, one.consent.agreed_at) == (MAY, JUNE)
    assert (one.consent.ip, one.consent.origin) == ("192.0.2.1", Origin.IMPORT)


# --- Rows of our own exports --------------------------------------------------------------------


def stored(**changes: Any) -> StoredSubscriber:
    given: dict[str, Any] = {
        "subscriber": make_subscriber(ADA, id=1, secret="s"),
        "record": dict.fromkeys(("created_at", "confirmed_at", "left_at", "left_reason")),
        "topics": (Subscription(make_topic("moss"), "moss"),),
        "consent": None,
        "suppression": None,
        "covered_until": None,
    }
    return StoredSubscriber(**{**given, **changes})


def test_export_leaves_unknown_values_empty():
    row = export_row(stored(), "a key")

    assert {column: cell for column, cell in row.items() if cell} == {
        "email": ADA, "status": "active", "topics": "moss", "hour": "8", "timezone": "UTC",
        "frequency": "daily", "weekday": "monday", "max_papers": "10", "breadth": "balanced",
        "near_misses_after": "3", "secret": "s", "key": "a key",
    }  # fmt: skip
    assert tuple(row) == OURS


def test_export_contains_known_values():
    schedule = replace(make_schedule(), at=time(6, 30))
    consent = {
        "created_at": NOW, "used_at": NOW, "origin": "form", "wording": "2", "ip": "192.0.2.1"
    }  # fmt: skip
    reader = make_subscriber(
        schedule=schedule, welcome_due=True, last_slot_at=NOW, last_edition_on=NOW.date(),
        paused_until=NOW.date(),
    )  # fmt: skip
    one = stored(
        subscriber=reader,
        record={"created_at": NOW, "confirmed_at": NOW, "left_at": NOW, "left_reason": "other"},
        topics=(Subscription(make_topic("moss"), "My moss"), Subscription(make_topic("a"), "a")),
        consent=consent,
        suppression=Suppression("0", SuppressionReason.HARD, NOW),
        covered_until=NOW,
    )

    row = export_row(one, "a key")

    now, today = "2030-01-02T08:00:00+00:00", "2030-01-02"
    assert (row["names"], row["hour"], row["welcome_due"]) == ("My moss; a", "06:30", "yes")
    assert (row["suppressed"], row["left_reason"], row["consent_wording"]) == ("hard", "other", "2")
    assert (row["consent_origin"], row["consent_ip"]) == ("form", "192.0.2.1")
    for column in ("joined_at", "confirmed_at", "left_at", "consent_asked_at", "consent_at",
                   "last_slot_at", "covered_until", "suppressed_since"):  # fmt: skip
        assert row[column] == now, column
    assert row["last_edition_on"] == row["paused_until"] == today


# --- Outcome of a row ---------------------------------------------------------------------------


ACTIVE = SubscriberStatus.ACTIVE


def dry_run() -> Import:
    """Return an import that stores nothing: these decisions need no database."""
    return Import(cast("Engine", None), "a suppression key", NOW, 10, dry_run=True)


@pytest.mark.parametrize(
    ("here", "confirmed_at", "is_imported", "left_at", "outcome", "status", "reason"),
    [
        (LEFT, MAY, False, None, ImportReport.KNOWN, "unsubscribed", "is already unsubscribed"),
        (ACTIVE, MAY, False, None, ImportReport.KNOWN, "active", "has no time of unsubscribing"),
        (ACTIVE, JUNE, False, MAY, ImportReport.KNOWN, "active", "confirmed here after"),
        (ACTIVE, MAY, False, MAY, ImportReport.UNSUBSCRIBED, "unsubscribed", ""),
        (ACTIVE, MAY, False, JUNE, ImportReport.UNSUBSCRIBED, "unsubscribed", ""),
        (ACTIVE, None, False, MAY, ImportReport.UNSUBSCRIBED, "unsubscribed", ""),
        (ACTIVE, JUNE, True, MAY, ImportReport.UNSUBSCRIBED, "unsubscribed", ""),
        (PENDING, None, True, None, ImportReport.UNSUBSCRIBED, "unsubscribed", ""),
    ],
)
def test_unsubscribed_row_for_a_known_reader_has_the_expected_outcome(
    here, confirmed_at, is_imported, left_at, outcome, status, reason
):
    left = replace(read({}), status=LEFT, left_at=left_at)
    known = ExistingSubscriber(1, here, confirmed_at, is_imported)

    result = dry_run()._meet(cast("Any", None), Record(2, {"email": ADA}, ()), left, known)

    assert (result.outcome, result.status, result.email) == (outcome, status, ADA)
    assert reason in result.reason
    assert bool(reason) is bool(result.reason)


@pytest.mark.parametrize(
    ("here", "row", "outcome", "status", "reason"),
    [
        (PENDING, ACTIVE, ImportReport.ADDED, "active", ""),
        (PENDING, PENDING, ImportReport.KNOWN, "pending", "is not confirmed yet"),
        (ACTIVE, ACTIVE, ImportReport.KNOWN, "active", "is already subscribed"),
        (ACTIVE, PENDING, ImportReport.KNOWN, "active", "is already subscribed"),
        (
            LEFT,
            ACTIVE,
            ImportReport.KNOWN,
            "unsubscribed",
            "has unsubscribed, and gets no confirmation mail",
        ),
    ],
)
def test_row_for_a_known_reader_has_the_expected_outcome(here, row, outcome, status, reason):
    one = replace(read({}), status=row, needs_confirmation=False)
    known = ExistingSubscriber(1, here, None, is_imported=False)

    result = dry_run()._meet(cast("Any", None), Record(2, {"email": ADA}, ()), one, known)

    assert (result.outcome, result.status, result.reason) == (outcome, status, reason)


@pytest.mark.parametrize(
    ("reason", "confirmed_at", "is_erased"),
    [
        (None, None, False),
        (SuppressionReason.HARD, None, False),
        (SuppressionReason.ERASED, None, True),
        (SuppressionReason.ERASED, MAY, True),
        (SuppressionReason.ERASED, JUNE, True),
        (SuppressionReason.ERASED, JUNE + (JUNE - MAY), False),
    ],
)
def test_erased_reader_stays_erased_unless_confirmed_later(reason, confirmed_at, is_erased):
    suppression = Suppression("0", reason, JUNE) if reason else None

    assert (
        transfer._is_erased(suppression, replace(read({}), confirmed_at=confirmed_at)) is is_erased
    )


@pytest.mark.parametrize(
    ("cells", "raw", "email"),
    [
        ({"email": ADA}, ("x",), ADA),
        ({}, ("x" * 200, "y"), "x" * 100),
        ({}, (), ""),
    ],
)
def test_result_is_labelled_by_address_or_first_cell(cells, raw, email):
    result = transfer._result(Record(2, cells, raw), ImportReport.REJECTED, "", "why")

    assert (result.email, result.reason) == (email, "why")


@pytest.mark.parametrize(
    ("changes", "requested", "status", "reason"),
    [
        ({}, True, "asked", ""),
        ({}, False, "pending", "gets no confirmation mail now: a limit was reached"),
        ({"needs_confirmation": False}, False, "pending", ""),
        ({"suppression": (SuppressionReason.HARD, NOW)}, False, "suppressed", "hard"),
    ],
)
def test_result_of_an_added_row_has_status_and_reason(changes, requested, status, reason):
    result = transfer._added(
        Record(2, {}, ()), replace(read({}, is_ours=False), **changes), requested=requested
    )

    assert (result.outcome, result.status, result.reason) == (ImportReport.ADDED, status, reason)


def test_consent_date_is_from_the_row_or_the_import():
    one = read({}, is_ours=False)
    for agreed_at, confirmed_at, requested_at, expected in (
        (None, None, None, (NOW, NOW)),
        (None, MAY, None, (MAY, MAY)),
        (JUNE, MAY, None, (JUNE, JUNE)),
        (JUNE, None, MAY, (MAY, JUNE)),
    ):
        consent = replace(one.consent, agreed_at=agreed_at, requested_at=requested_at)
        given = replace(one, consent=consent, confirmed_at=confirmed_at)

        row = dry_run()._consent(7, given)

        assert (row["created_at"], row["used_at"]) == expected
        assert (row["subscriber_id"], row["email"], row["origin"]) == (7, ADA, Origin.IMPORT)
        assert row["expires_at"] == row["used_at"]


@pytest.mark.parametrize(
    ("cells", "is_hash"),
    [
        ({"address_hash": "0"}, True),
        ({"address_hash": "0", "email": ADA}, False),
        ({"email": ADA}, False),
        ({}, False),
    ],
)
def test_row_without_an_address_is_a_hash_if_it_has_one(cells, is_hash):
    assert transfer._is_hash(Record(2, cells, ())) is is_hash
