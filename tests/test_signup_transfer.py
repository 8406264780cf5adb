"""Lists of subscribers: parse other formats, and move readers without mail or loss."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Engine, select

from pipeline import signup
from pipeline.domain import (
    Breadth,
    Frequency,
    Liking,
    Schedule,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.errors import PaperboyError
from pipeline.signup import Choices, UnsubscribeReason, parse_queries, reaction_transfer, transfer
from pipeline.signup.csv_lists import (
    OURS,
    SubscriberList,
    escape_cell,
    join_words,
    split_words,
    unescape_cell,
)
from pipeline.signup.transfer import Import, Imported, ImportReport
from pipeline.storage import addresses, reactions, subscribers, suppressions
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.reactions import Reaction, StoredProfile
from pipeline.storage.schema import (
    BatchRow,
    DeliveryRow,
    ProfileRow,
    ReactionRow,
    RequestRow,
    SubscriberRow,
    SubscriptionRow,
    SuppressionRow,
    TopicRow,
)
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import ingest, stored

KEY = "a suppression key"
ADA, BOB, EVE = "ada@example.org", "bob@example.org", "eve@example.org"
FOREIGN_HEADER = "Email Address,Status\n"


def listed(text: str | bytes, encoding: str = "utf-8") -> SubscriberList:
    octets = text.encode(encoding) if isinstance(text, str) else text
    return SubscriberList(io.BytesIO(octets), "list.csv")


def listed_emails(text: str | bytes, encoding: str = "utf-8") -> list[str]:
    return [record.cells["email"] for record in listed(text, encoding) if not record.problem]


def imported(engine: Engine, text: str | bytes, **options) -> list[Imported]:
    run = Import(engine, options.pop("key", KEY), options.pop("now", NOW), 10, **options)
    return list(run.run(listed(text)))


def exported(engine: Engine, key: str = KEY) -> str:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(OURS)
    for row in transfer.export_rows(engine, key):
        writer.writerow([escape_cell(cell) for cell in row.values()])
    return file.getvalue()


def statuses(engine: Engine) -> dict[str, str]:
    with read_only(engine) as conn:
        return {one.email: one.status for one in subscribers.list_all(conn)}


def mails(engine: Engine) -> int:
    with read_only(engine) as conn:
        return len(conn.execute(select(DeliveryRow.id)).all())


def add(engine: Engine, email: str, *topics: str, **choices) -> None:
    queries = parse_queries(topics)
    signup.add(
        engine, email, Choices(queries, **choices), confirmed=True, suppression_key=KEY,
        now=NOW - timedelta(days=30),
    )  # fmt: skip


def secret_of(engine: Engine, email: str) -> str:
    with read_only(engine) as conn:
        found = subscribers.by_email(conn, email)
    assert found
    return found.secret


@pytest.fixture
def other(tmp_path: Path, sqlite_template: Path):
    """Yield the database of another installation."""
    path = tmp_path / "other.db"
    path.write_bytes(sqlite_template.read_bytes())
    engine = open_engine(f"sqlite:///{path}")
    yield engine
    engine.dispose()


# --- Files in other formats ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("email,topics\nada@example.org,robots\n", "utf-8"),
        ("email,topics\nada@example.org,robots\n", "utf-8-sig"),
        ("email,topics\r\nada@example.org,robots\r\n", "utf-16"),
        ("email,topics\nada@example.org,robots\n", "utf-16-le"),
        ("email,topics\nada@example.org,robots\n", "utf-32"),
        ("email,topics\nada@example.org,Mühle €\n", "cp1252"),
        ("email\ttopics\rada@example.org\trobots\r", "utf-8"),
        ("E-Mail|Topics\nada@example.org|robots\n", "utf-8"),
        ("sep=;\nEMAIL;Topics\nada@example.org;robots\n", "utf-8"),
        ('"sep=|"\r\nemail|x\r\nada@example.org|1\r\n', "utf-8-sig"),
        ('Email Address,First Name\n"ada@example.org","Ada, Countess"\n', "utf-8"),
        ('email,notes\nada@example.org,"two\nlines, and ""quotes"""\n', "utf-8"),
        ("First Name;E-Mail-Adresse;\nAda;ada@example.org;\n;;\n", "utf-8"),
        ("email,,\nada@example.org,,\n\n,,\n", "utf-8"),
        ("\n\nemail\n\nada@example.org\n\n", "utf-8"),
        ("ada@example.org", "utf-8"),
        ("Ada Lovelace <ada@example.org>\n", "utf-8"),
        ('"Lovelace, Ada" <ada@example.org>\n', "utf-8"),
        ("Lovelace, Ada <ada@example.org>\n", "utf-8"),
        ("Name,Contact\nAda,ada@example.org\n", "utf-8"),
        ("Members of the list\nada@example.org\n", "utf-8"),
        ("List of readers;;\nName;Email;City\nAda;ada@example.org;London\n", "utf-8"),
        ("email\n  <ada@example.org> ;\n", "utf-8"),
        ("email\nmailto:ada@example.org\n", "utf-8"),
        ("Email \u00a0,x\n\u00a0ada@example.org\u200b,1\n", "utf-8"),
    ],
)
def test_lists_from_spreadsheets_and_newsletter_tools_are_parsed(text, encoding):
    assert listed_emails(text, encoding) == [ADA]


def test_addresses_separated_by_semicolons_are_parsed():
    assert listed_emails("ada@example.org, bob@example.org; eve@example.org\n")[:1] == [ADA]
    assert listed_emails("ada@example.org;bob@example.org\neve@example.org\n") == [ADA, BOB, EVE]


def test_file_with_mixed_encodings_keeps_every_letter():
    octets = "email,topics\n" + "ada@example.org,Mühle\n"
    records = listed(octets.encode() + "bob@example.org,Mühle\n".encode("cp1252"))

    assert [record.cells["topics"] for record in records] == ["Mühle", "Mühle"]


def test_unclosed_quotation_mark_rejects_only_its_line():
    text = f'email,topics\nada@example.org,"robots\nbob@example.org,x\n{EVE},y\n'
    records = list(listed(text))

    assert [record.line for record in records if record.problem] == [2]
    assert [record.cells["email"] for record in records if not record.problem] == [BOB, EVE]


def test_unclosed_quotation_mark_in_a_long_list_rejects_only_its_line():
    many = "".join(f"reader{n}@example.org,x\n" for n in range(3_000))
    records = list(listed(f'email,topics\nada@example.org,"robots\n{many}'))

    assert [record.line for record in records if record.problem] == [2]
    assert len(records) == 3_001


def test_overlong_line_is_one_rejected_row():
    records = list(listed(f"email,x\nada@example.org,{'x' * 300_000}\nbob@example.org,y\n"))

    assert records[0].problem
    assert records[-1].cells["email"] == BOB


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n1,2\n", "\0\0\0\0", "name\nAda\n"])
def test_file_without_addresses_is_rejected(text):
    with pytest.raises(PaperboyError, match=r"list\.csv"):
        list(listed(text))


def test_listmonk_attributes_are_parsed_as_preferences():
    text = (
        'uuid,email,name,attributes,status\n1,ada@example.org,Ada,"{""topics"": [""a;b""], '
        '""timezone"": ""Europe/Paris"", ""city"": 3}",enabled\n'
    )
    [record] = listed(text)

    assert split_words(record.cells["topics"]) == ("a;b",)
    assert record.cells["timezone"] == "Europe/Paris"


# --- Cells --------------------------------------------------------------------------------------


@given(st.text())
@example("'=x")
@example("\t=x")
@example("\uff1dx")
@example(" @x")
def test_escaped_cell_starts_no_formula_and_round_trips(cell):
    written = escape_cell(cell)

    assert written.lstrip(" \0\n")[:1] not in {
        "=",
        "+",
        "-",
        "@",
        "\t",
        "\r",
        "\uff1d",
        "\uff0b",
        "\uff0d",
        "\uff20",
    }
    assert unescape_cell(written) == cell


WORD = st.text(min_size=1).filter(str.strip)


@given(st.lists(WORD, max_size=5))
@example(["a;b", 'say "this"', "-word", "=cmd|' /C calc'!A0", "two\nlines", "😀", "שלום", "'x"])
@example(["[x]"])
@example(["a, b;=1+1"])
def test_joined_words_round_trip_and_start_no_formula_after_a_delimiter(words):
    cell = join_words(words)

    assert list(split_words(cell)) == words
    for delimiter in ",;\t|\n":
        for part in cell.split(delimiter)[1:]:
            assert part.strip(' "')[:1] not in {"=", "+", "-", "@"}


def test_topics_are_split_at_semicolons_outside_quotation_marks():
    assert split_words('robots; "a;b" ;\nti:x') == ("robots", '"a;b"', "ti:x")


# --- Moving -------------------------------------------------------------------------------------


def test_export_and_import_keep_all_subscriber_data(engine, other):
    """All columns of a subscriber, except ids of this database and positions in its calendar."""
    schedule = Schedule(time(6), "Europe/Paris", Frequency.WEEKLY, Weekday.THURSDAY)
    add(engine, ADA, "a;b", '"deep learning" -survey', "=x", schedule=schedule, max_papers=7,
        breadth=Breadth.FEWER, names={"a;b": "=Mine; \"too\""})  # fmt: skip
    add(engine, BOB, "robots")
    signup.leave(engine, secret_of(engine, BOB), NOW - timedelta(days=3))
    signup.set_reason(engine, secret_of(engine, BOB), UnsubscribeReason.OTHER)
    signup.request_subscription(
        engine, EVE, Choices(parse_queries(("x",))), ip="192.0.2.1", suppression_key=KEY, now=NOW
    )
    with engine.begin() as conn:
        conn.execute(BatchRow.__table__.insert().values(
            number=1, published_at=NOW - timedelta(hours=2), papers=1, matches=1))  # fmt: skip
        conn.execute(SubscriberRow.__table__.update().where(SubscriberRow.email == ADA).values(
            cursor=1, paused_until=date.max, active_on=date(2029, 6, 1),
            last_slot_at=NOW - timedelta(days=6),
            last_edition_on=NOW.date() - timedelta(days=6)))  # fmt: skip
        suppressions.suppress(conn, "0" * 64, SuppressionReason.COMPLAINT, NOW)
        hash_ = addresses.address_hash(BOB, KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.HARD, NOW)

    before = mails(other)
    results = imported(other, exported(engine))

    assert {one.outcome for one in results} == {ImportReport.ADDED}
    assert mails(other) == before == 0
    moved = {
        "id", "email_key", "address_hash", "cursor", "papers_from", "next_slot_at"
    }  # fmt: skip
    kept = [c.name for c in SubscriberRow.__table__.c if c.name not in moved]
    assert rows(other, SubscriberRow, kept) == rows(engine, SubscriberRow, kept)
    assert rows(other, SuppressionRow) == rows(engine, SuppressionRow)
    assert followed(other) == followed(engine)
    used = ["created_at", "used_at", "origin", "wording", "ip"]
    theirs = [row for row in rows(engine, RequestRow, used) if row["used_at"]]
    assert rows(other, RequestRow, used) == theirs


def test_reader_without_a_known_activity_is_active_on_the_day_of_the_import(engine):
    imported(engine, f"email,status\n{ADA},active\n{BOB},unsubscribed\n", confirmed=True)

    found = {row["email"]: row["active_on"] for row in rows(engine, SubscriberRow)}
    assert found == {ADA: NOW.date(), BOB: None}


def test_every_subscriber_column_is_exported_or_recreated():
    """A new column must get a place in the export, or be listed here with the reason."""
    of_this_database = {"id", "email_key", "address_hash", "cursor", "papers_from", "next_slot_at"}
    under_another_name = {"at": "hour", "created_at": "joined_at"}
    for column in SubscriberRow.__table__.c:
        name = under_another_name.get(column.name, column.name)
        assert name in OURS or column.name in of_this_database, column.name


def rows(engine: Engine, table, names: list[str] | None = None) -> list[dict]:
    with read_only(engine) as conn:
        columns = [table.__table__.c[name] for name in names] if names else table.__table__.c
        found = [dict(row._mapping) for row in conn.execute(select(*columns))]
    return sorted(found, key=str)


def followed(engine: Engine) -> list[tuple[str, str, str]]:
    query = (
        select(SubscriberRow.email, TopicRow.query, SubscriptionRow.label)
        .join_from(SubscriptionRow, SubscriberRow)
        .join(TopicRow)
        .order_by(SubscriberRow.email, SubscriptionRow.created_at, TopicRow.query)
    )
    with read_only(engine) as conn:
        return [tuple(row) for row in conn.execute(query)]


def test_import_is_idempotent(engine, other):
    for number in range(7):
        add(engine, f"reader{number}@example.org")
    text = exported(engine)
    imported(other, text)

    again = imported(other, text)

    assert {one.outcome for one in again} == {ImportReport.KNOWN}
    assert len(statuses(other)) == 7


def test_interrupted_import_resumes_when_run_again(engine, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK", 3)
    text = "email\n" + "".join(f"reader{n}@example.org\n" for n in range(10))
    run = Import(engine, KEY, NOW, 10).run(listed(text))
    for _ in range(4):
        next(run)
    run.close()
    assert len(statuses(engine)) == 6

    counts = Counter(one.outcome for one in imported(engine, text))

    assert counts == {ImportReport.KNOWN: 6, ImportReport.ADDED: 4}
    assert mails(engine) == 10


def test_crash_in_a_chunk_stores_nothing(engine, monkeypatch):
    def die(*_args, **_options):
        raise SystemExit

    monkeypatch.setattr(transfer.subscriber_transfer, "add_consents", die)
    with pytest.raises(SystemExit):
        imported(engine, "email\nada@example.org\n", confirmed=True)

    assert statuses(engine) == {}


def test_hashes_of_another_key_are_rejected_unless_skipped(engine, other):
    add(engine, ADA)
    with engine.begin() as conn:
        suppressions.suppress(conn, "0" * 64, SuppressionReason.HARD, NOW)
    text = exported(engine)

    with pytest.raises(PaperboyError, match="SUPPRESSION_KEY"):
        imported(other, text, key="another key")
    assert statuses(other) == {}

    results = imported(other, text, key="another key", skip_hashes=True)
    assert [one.outcome for one in results] == [ImportReport.LEFT_OUT, ImportReport.ADDED]


def test_a_suppressed_subscriber_stays_suppressed_under_another_key(engine, other):
    add(engine, ADA)
    with engine.begin() as conn:
        hash_ = addresses.address_hash(ADA, KEY)
        suppressions.suppress(conn, hash_, SuppressionReason.COMPLAINT, NOW)

    imported(other, exported(engine), key="another key")

    with read_only(other) as conn:
        hash_ = addresses.address_hash(ADA, "another key")
        assert suppressions.by_hash(conn, hash_).reason is SuppressionReason.COMPLAINT


def test_import_does_not_restore_an_erased_reader(engine):
    add(engine, ADA)
    text = exported(engine)
    with read_only(engine) as conn:
        found = subscribers.by_email(conn, ADA)
    signup.erase_by_id(engine, found.id, NOW)

    [result] = imported(engine, text)

    assert result.outcome is ImportReport.LEFT_OUT
    assert statuses(engine) == {}
    for options in ({}, {"confirmed": True}):
        later = NOW + timedelta(days=1)
        [result] = imported(engine, f"email\n{ADA}\n", now=later, **options)
        assert result.outcome is ImportReport.LEFT_OUT
    assert mails(engine) == 0


def test_erased_reader_can_sign_up_again_immediately(engine):
    add(engine, ADA)
    signup.erase(engine, ADA)
    now = datetime.now(UTC) + timedelta(minutes=1)

    signup.request_subscription(engine, ADA, Choices(), ip=None, suppression_key=KEY, now=now)

    assert mails(engine) == 1
    add(engine, ADA)
    with read_only(engine) as conn:
        assert suppressions.list_all(conn) == []


def test_import_replaces_a_secret_already_in_use(engine, other):
    """If two readers had one secret, they would unsubscribe each other."""
    add(engine, ADA)
    text = exported(engine).replace(ADA, BOB)
    imported(engine, text)

    assert statuses(engine) == {ADA: "active", BOB: "active"}
    assert secret_of(engine, ADA) != secret_of(engine, BOB)


# --- Reactions ----------------------------------------------------------------------------------


HARD = 'x;=1, "y" \\ {z}: ‮ 🦜'


def with_reactions(engine: Engine) -> None:
    """Add a reader with a like, a saved paper, a paper that is not stored, feeds, and switches."""
    add(engine, ADA)
    [reader] = signup.find(engine, ADA)[:1]
    ingest(engine, make_sighting("2401.00001", title="Moss"), make_sighting("2401.00002"))
    signup.like(engine, reader.id, "2401.00001", Liking.MORE, NOW)
    signup.like(engine, reader.id, "2401.00002", Liking.LESS, NOW)
    signup.annotate(engine, reader.id, "2401.00002", HARD, NOW)
    with engine.begin() as conn:
        reactions.put(conn, reader.id, Reaction(
            "title:0123456789abcdef", None, HARD, (HARD, "Turing"), b"", (), NOW, is_own=True,
            saved_at=NOW, year=1936, url="https://example.org/?a=-1"))  # fmt: skip
    signup.create_feeds(engine, reader.id, NOW)
    signup.mail_weekly(engine, reader.id, NOW, wanted=True)
    signup.configure(engine, reader.id, NOW, outside=False)
    signup.forget(engine, reader.id, "moss", NOW)


def reacted(engine: Engine) -> list[Reaction]:
    with read_only(engine) as conn:
        [reader] = [one.id for one in subscribers.list_all(conn) if one.email == ADA]
        return reactions.of_reader(conn, reader)


def test_reactions_saved_papers_and_settings_are_moved(engine, other):
    with_reactions(engine)
    ingest(other, make_sighting(), make_sighting("2401.00002"))

    results = imported(other, exported(engine))

    assert Counter((one.outcome, one.status) for one in results) == {
        (ImportReport.ADDED, "active"): 1,
        (ImportReport.ADDED, "reaction"): 3,
    }
    before, after = reacted(engine), reacted(other)
    assert [replace(one, paper_id=None) for one in after] == [
        replace(one, paper_id=None) for one in before
    ]
    here = {paper.key: paper.id for paper in stored(other)}
    assert {one.key: one.paper_id for one in after} == {
        "2401.00001": None,
        "2401.00002": here["2401.00002"],
        "title:0123456789abcdef": None,
    }
    names = ["is_on", "outside", "removed", "feed_secret", "saved_weekly", "likes", "authors"]
    assert rows(engine, ProfileRow, names)[0]["saved_weekly"]
    assert rows(other, ProfileRow, names) == rows(engine, ProfileRow, names)


def test_reactions_are_added_once_and_existing_ones_stay(engine, other):
    with_reactions(engine)
    text = exported(engine)
    imported(other, text)
    with read_only(other) as conn:
        [reader] = subscribers.list_all(conn)
    signup.annotate(other, reader.id, "2401.00002", "changed here", NOW)

    again = imported(other, text)

    assert {one.outcome for one in again} == {ImportReport.KNOWN}
    assert sorted(one.note for one in reacted(other)) == ["", "", "changed here"]


def test_reactions_of_a_reader_who_was_erased_here_are_not_added(engine, other):
    with_reactions(engine)
    text = exported(engine)
    imported(other, text)
    with read_only(other) as conn:
        [reader] = subscribers.list_all(conn)
    signup.erase_by_id(other, reader.id, NOW)

    assert {one.outcome for one in imported(other, text)} == {ImportReport.LEFT_OUT}
    assert rows(other, ReactionRow) == rows(other, ProfileRow) == []


def test_reactions_of_a_reader_who_subscribed_here_are_added(engine, other):
    with_reactions(engine)
    add(other, ADA)

    assert Counter(one.outcome for one in imported(other, exported(engine))) == {
        ImportReport.KNOWN: 1,
        ImportReport.ADDED: 3,
    }
    assert len(reacted(other)) == 3


def test_feed_secret_in_use_is_not_given_to_another_reader(engine):
    with_reactions(engine)
    imported(engine, exported(engine).replace(ADA, BOB))

    secrets = [row["feed_secret"] for row in rows(engine, ProfileRow)]
    assert len(secrets) == 2
    assert None in secrets


def test_dry_run_returns_the_same_results_for_reactions(engine, other):
    with_reactions(engine)
    text = exported(engine)

    tried = imported(other, text, dry_run=True)

    assert rows(other, ReactionRow) == rows(other, ProfileRow) == []
    assert tried == imported(other, text)


@pytest.mark.parametrize("column", ["reaction", "profile"])
@pytest.mark.parametrize("cell", ["x", "{}", "[]", "3", '{"paper":3}', '{"is_on":1}'])
def test_damaged_reaction_or_profile_rejects_its_row(engine, column, cell):
    header = [name for name in OURS if name != column]
    row = {"email": ADA, "status": "active"}
    file = io.StringIO()
    csv.writer(file).writerows([[*header, column], [*(row.get(name, "") for name in header), cell]])

    [result] = imported(engine, file.getvalue())

    assert result.outcome is ImportReport.REJECTED
    assert column in result.reason


def test_profile_of_an_older_export_has_no_weekly_mail():
    cell = '{"is_on":false,"outside":true,"removed":["moss"],"feed_secret":null}'

    moved = reaction_transfer.parse_profile(cell)

    assert moved
    assert moved.profile == StoredProfile(is_on=False, removed=("moss",), saved_weekly=False)


@pytest.mark.parametrize("field", ["terms", "at", "saved_at", "liking", "telling"])
def test_damaged_field_of_a_reaction_rejects_it(engine, field):
    with_reactions(engine)
    values = json.loads(reaction_transfer.reaction_cell(reacted(engine)[0]))

    with pytest.raises(PaperboyError, match="reaction"):
        reaction_transfer.parse_reaction(json.dumps({**values, field: "2030-01-01T00:00"}))


# --- Lists of other newsletters -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "row", "status", "suppressed"),
    [
        ("email,status", "unsubscribed", "unsubscribed", None),
        ("email,Status", "Cleaned", "unsubscribed", "hard"),
        ("email,status", "blocklisted", "unsubscribed", "manual"),
        ("email,status", "disabled", "unsubscribed", None),
        ("email,subscriber_type", "unactivated", "pending", None),
        ("email,type", "complained", "unsubscribed", "complaint"),
        ("email,status", "Non-Subscribed", "unsubscribed", None),
        ("Email Address,UNSUB_TIME", "2029-05-01 10:00:00", "unsubscribed", None),
        ("Email Address,CLEAN_TIME", "2029-05-01 10:00:00", "unsubscribed", "hard"),
        ("email,subscribed_to_emails", "false", "unsubscribed", None),
        ("email,Email disabled", "TRUE", "unsubscribed", None),
        ("email,is_unsubscribed", "1", "unsubscribed", None),
        ("email,blacklisted", "yes", "unsubscribed", "manual"),
        ("email,unsubscribed", "false", "pending", None),
    ],
)
@pytest.mark.parametrize("confirmed", [False, True])
def test_columns_of_a_foreign_row_set_its_status_suppression_and_mail(
    engine, header, row, status, suppressed, confirmed
):
    [result] = imported(engine, f"{header}\n{ADA},{row}\n", confirmed=confirmed)

    assert result.outcome is ImportReport.ADDED
    is_free = (header, row) == ("email,unsubscribed", "false")
    assert statuses(engine)[ADA] == ("active" if is_free and confirmed else status)
    assert mails(engine) == (1 if is_free and not confirmed else 0)
    with read_only(engine) as conn:
        reasons = [one.reason for one in suppressions.list_all(conn)]
    assert reasons == ([suppressed] if suppressed else [])


@pytest.mark.parametrize("status", ["subscribed", "Active", "enabled", "regular", ""])
def test_foreign_active_rows_are_asked_unless_imported_as_confirmed(engine, other, status):
    text = f"Email Address,Status,Extra\n{ADA},{status},x\n"
    [asked] = imported(engine, text)
    [taken] = imported(other, text, confirmed=True)

    assert (asked.outcome, asked.status) == (ImportReport.ADDED, "asked")
    assert statuses(engine) == {ADA: "pending"}
    assert mails(engine) == 1
    assert taken.status == "active"
    assert mails(other) == 0


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("chunk", [1, 500])
@pytest.mark.parametrize("confirmed", [False, True])
def test_unsubscribed_row_overrides_a_subscribed_row(engine, monkeypatch, order, chunk, confirmed):
    monkeypatch.setattr(transfer, "CHUNK", chunk)
    two = [f"{ADA},subscribed,\n", f"{ADA},unsubscribed,2029-01-01\n"][::order]
    imported(engine, "Email,Status,Unsub_time\n" + "".join(two), confirmed=confirmed)

    assert statuses(engine) == {ADA: "unsubscribed"}
    with read_only(engine) as conn:
        owed = conn.execute(select(DeliveryRow.id).where(DeliveryRow.status == "queued")).all()
    assert owed == []


def test_import_unsubscribes_only_if_the_row_is_later_than_joining(engine):
    add(engine, ADA)

    [without_time] = imported(engine, f"email,status\n{ADA},unsubscribed\n")
    [earlier] = imported(engine, f"email,unsub_time\n{ADA},2029-01-01\n")
    assert [without_time.outcome, earlier.outcome] == [ImportReport.KNOWN, ImportReport.KNOWN]
    assert statuses(engine) == {ADA: SubscriberStatus.ACTIVE}

    [later] = imported(engine, f"email,unsub_time\n{ADA},2030-01-01\n")
    assert later.outcome is ImportReport.UNSUBSCRIBED
    assert statuses(engine) == {ADA: SubscriberStatus.UNSUBSCRIBED}


def test_pending_reader_listed_twice_is_added_once(engine):
    signup.request_subscription(engine, ADA, Choices(), ip=None, suppression_key=KEY, now=NOW)

    results = imported(engine, f"email,status\n{ADA},active\n{ADA},active\n", confirmed=True)

    assert [one.outcome for one in results] == [ImportReport.ADDED, ImportReport.KNOWN]
    assert statuses(engine) == {ADA: SubscriberStatus.ACTIVE}


def test_import_does_not_ask_an_unsubscribed_reader_again(engine):
    add(engine, ADA)
    signup.leave(engine, secret_of(engine, ADA), NOW)

    for options in ({}, {"confirmed": True}):
        [result] = imported(engine, f"email\n{ADA}\n", **options)
        assert result.outcome is ImportReport.KNOWN
    assert statuses(engine) == {ADA: SubscriberStatus.UNSUBSCRIBED}
    assert mails(engine) == 0


def test_bad_rows_are_reported_by_line_and_reason_and_others_are_added(engine):
    text = (
        "email,topics,hour,status\n"
        "ada@example.org,robots,7,\n"
        "no-address,robots,7,\n"
        "bob@example.org,(,7,\n"
        "bob@example.org,x,25,\n"
        "bob@example.org,x,7,whatever\n"
        "bob@example.org,x,7,active,extra\n"
        ",x,7,\n"
        "eve@example.org,robots,7,\n"
    )
    results = imported(engine, text)

    bad = {one.record.line: one.reason for one in results if one.outcome is ImportReport.REJECTED}
    assert sorted(bad) == [3, 4, 5, 6, 7, 8]
    assert "no-address" in bad[3]
    assert "topics" in bad[4]
    assert "25" in bad[5]
    assert "whatever" in bad[6]
    assert "5 cells" in bad[7]
    assert "no email" in bad[8]
    assert set(statuses(engine)) == {ADA, EVE}


def test_dry_run_returns_the_same_results_and_stores_nothing(engine, other):
    add(engine, ADA, "a;b")
    add(engine, BOB)
    signup.leave(engine, secret_of(engine, BOB), NOW)
    add(other, ADA)
    foreign = f"email,status\n{ADA},x\n{EVE},subscribed\n{EVE},subscribed\n{BOB},bounced\n"
    for text in (exported(engine), foreign):
        before = statuses(other), mails(other)
        tried = imported(other, text, dry_run=True)
        assert (statuses(other), mails(other)) == before

        done = imported(other, text)
        assert [(o.outcome, o.status) for o in tried] == [(o.outcome, o.status) for o in done]


def test_moved_reader_continues_on_the_next_day(engine, other):
    """Papers of days that the old installation has covered are not sent again."""
    add(engine, ADA)
    with engine.begin() as conn:
        conn.execute(BatchRow.__table__.insert().values(
            number=5, published_at=NOW, papers=1, matches=1))  # fmt: skip
        conn.execute(SubscriberRow.__table__.update().values(
            cursor=5, last_slot_at=NOW, last_edition_on=NOW.date()))  # fmt: skip

    imported(other, exported(engine))

    with read_only(other) as conn:
        moved = subscribers.by_email(conn, ADA)
    assert moved.papers_from == NOW.date() + timedelta(days=1)
    assert moved.next_slot_at == NOW + timedelta(days=1)
    assert moved.cursor == 0
