"""Keys that are not set are generated once, are secret, and are the same for every process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, select, update
from starlette.testclient import TestClient

from pipeline import bootstrap, doctor, settings
from pipeline.bootstrap import Services
from pipeline.domain import SuppressionReason
from pipeline.errors import InvalidTokenError, SettingsError
from pipeline.links import SignedLinks
from pipeline.storage import addresses, keys, suppressions
from pipeline.storage.database import open_engine, read_only
from pipeline.storage.keys import KeyName, fingerprint
from pipeline.storage.schema import KeyRow, StrikeRow, SubscriberRow, SuppressionRow, Table
from pipeline.web import create_app
from tests.support.newsroom import SUPPRESSION_KEY, add_reader, rows

ROOT = Path(__file__).resolve().parents[1]
ADA, BOB = "ada@example.org", "bob@example.org"
LONG, OTHER = "a-key-of-thirty-two-characters...", "another-key-of-that-many-chars..."
NOW = datetime.now(UTC)
RELAY = {"smtp_url": "smtp://127.0.0.1:25", "site_url": "https://papers.of-a-lab.org"}


def open_services(engine: Engine, **given: str) -> Services:
    return Services(settings.load(None, **given), engine)


def test_keys_are_generated_once_and_stored(engine):
    made = open_services(engine).keys

    again = open_services(engine).keys

    assert made == again
    assert len(made.secret[0]) >= 43
    assert made.secret[0] != made.suppression
    assert "secret" not in repr(made)
    assert made.suppression not in repr(made)


@pytest.mark.full
def test_concurrent_processes_get_the_same_keys(database_url):
    """The first insert wins; the other processes read its row."""
    script = (
        "import sys; from datetime import UTC, datetime, timedelta;"
        "from pipeline.storage.database import open_engine;"
        "from pipeline.storage.keys import in_use; sys.stdin.read(1);"
        "k = in_use(open_engine(sys.argv[1]), (), None,"
        " now=datetime.now(UTC), link_life=timedelta(1));"
        "print(*k.secret, k.suppression)"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, database_url],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    started = [start() for _ in range(2)]
    said = {process.communicate("x", timeout=100)[0].splitlines()[-1] for process in started}

    assert len(said) == 1
    assert len(said.pop().split()) == 2


def test_concurrent_threads_get_the_same_keys(engine):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_services(engine).keys, range(16)))

    assert len(set(found)) == 1
    assert len(rows(engine, KeyRow)) == 2


def test_both_keys_are_generated_in_one_transaction(engine):
    """Both keys are made in one transaction; if it rolls back, the next start makes them."""
    with engine.connect() as conn:
        assert len(keys.settle(conn, (), None, NOW)) == 2
        conn.rollback()

    assert rows(engine, KeyRow) == []
    assert len(open_services(engine).keys.secret) == 1


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_link_signed_with_any_key_in_the_repository_is_rejected(engine):
    """Signed links of a public https site with a local relay and no keys: the original bug."""
    services = open_services(engine, **RELAY)
    site = TestClient(create_app(services), base_url=RELAY["site_url"])
    reader = add_reader(engine)
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    words = set()
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file():
            text = (ROOT / name).read_bytes().decode("utf-8", "ignore")
            words |= {w for w in re.findall(r"[\w.-]{8,64}", text) if "key" in w or "-" in w}

    for word in sorted(words):
        forged = SignedLinks(RELAY["site_url"], [word]).data(reader.id, NOW)
        with pytest.raises(InvalidTokenError):
            services.links.read_data(forged.rpartition("/")[2], NOW)

    link = SignedLinks(RELAY["site_url"], ["development" + "-only"]).data(reader.id, NOW)
    assert site.get(link).status_code == 410
    assert site.post(f"{link}/export").status_code == 410
    assert site.get(services.links.data(reader.id, NOW)).status_code == 200
    assert len(words) > 100


# --- Keys set later -----------------------------------------------------------------------------


def test_secret_key_from_settings_signs_and_the_generated_key_expires_later(engine):
    before = open_services(engine)
    link = before.links.preferences(1, NOW).rpartition("/")[2]

    later = open_services(engine, secret_key=LONG)

    assert later.keys.secret == (LONG, before.keys.secret[0])
    assert later.links.read_preferences(link, NOW) == 1
    with engine.begin() as conn:
        conn.execute(
            update(KeyRow)
            .where(KeyRow.name == KeyName.SECRET)
            .values(retired_at=NOW - timedelta(days=91))
        )
    assert open_services(engine, secret_key=LONG).keys.secret == (LONG,)
    assert open_services(engine).keys.secret == before.keys.secret, "taken back into use"


def test_no_key_is_generated_if_both_are_set(engine):
    found = open_services(engine, secret_key=LONG, suppression_key=OTHER).keys

    assert (found.secret, found.suppression) == ((LONG,), OTHER)
    assert [row.value for row in rows(engine, KeyRow)] == [None]


def test_changed_suppression_key_raises_settings_error(engine, database_url):
    """If another key were accepted, suppressed addresses would receive mail again."""
    made = open_services(engine).keys

    for given in ({"suppression_key": OTHER}, {"suppression_key": f"{made.suppression} "}):
        with pytest.raises(SettingsError, match=r"^SUPPRESSION_KEY: .*never be changed") as raised:
            bootstrap.build(settings.load(None, database_url=database_url, **given))
        assert made.suppression not in str(raised.value)
        assert fingerprint(made.suppression) in str(raised.value)
    moved = open_services(engine, suppression_key=made.suppression)
    assert moved.suppression_key == made.suppression, "the same key may move to the settings"


def test_missing_suppression_key_raises_settings_error_if_it_was_set(engine):
    _ = open_services(engine, suppression_key=OTHER).keys

    with pytest.raises(SettingsError, match=r"^SUPPRESSION_KEY: is missing"):
        _ = open_services(engine).keys


def test_renewed_secret_key_invalidates_older_links(engine):
    """If a backup was lost; unsubscribe links depend on the subscriber's secret and still work."""
    before = open_services(engine)
    link = before.links.data(1, NOW).rpartition("/")[2]

    with engine.begin() as conn:
        assert keys.renew_secret(conn, NOW)

    later = open_services(engine)
    with pytest.raises(InvalidTokenError):
        later.links.read_data(link, NOW)
    assert later.suppression_key == before.suppression_key


HOUR = timedelta(hours=1)
SECRET, SUPPRESSION = KeyName.SECRET, KeyName.SUPPRESSION


def kept(name, value, retired_at=None):
    return keys.StoredKey(name, value, fingerprint(value or OTHER), NOW, retired_at)


@pytest.mark.parametrize(
    ("secret", "given", "signs"),
    [
        (None, (), None),
        (None, (LONG,), (LONG,)),
        (("made", None), (), ("made",)),
        (("made", None), (LONG,), None),
        (("made", NOW), (), None),
        (("made", NOW), (LONG,), (LONG, "made")),
        (("made", NOW - HOUR + timedelta(seconds=1)), (LONG, OTHER), (LONG, OTHER, "made")),
        (("made", NOW - HOUR), (LONG,), (LONG,)),
        ((LONG, NOW), (LONG,), (LONG,)),
        ((None, NOW), (LONG,), (LONG,)),
    ],
)
def test_keys_in_use_depend_on_stored_keys_and_settings(secret, given, signs):
    known = {SUPPRESSION: kept(SUPPRESSION, "hides")}
    if secret:
        known[SECRET] = kept(SECRET, *secret)

    found = keys.settled(known, given, None, now=NOW, link_life=HOUR)

    assert found == (signs and keys.Keys(signs, "hides"))
    without = {SECRET: kept(SECRET, "made")}
    assert keys.settled(without, (), None, now=NOW, link_life=HOUR) is None


def test_settle_is_idempotent_and_keeps_the_retirement_time(engine):
    def settle(hours, secret=(), suppression=None):
        with engine.begin() as conn:
            made = keys.settle(conn, secret, suppression, NOW + hours * HOUR)
            found = keys.stored_keys(conn)
        return made, found

    made, first = settle(0)
    assert made == [SECRET, SUPPRESSION]
    assert settle(1) == ([], first)
    assert settle(2, (LONG,))[0] == []
    assert settle(3, (LONG,))[1][SECRET].retired_at == NOW + 2 * HOUR
    assert settle(4, (LONG,))[1][SUPPRESSION] == first[SUPPRESSION]
    assert settle(5)[1] == first, "taken back into use"
    for key in first.values():
        assert key.fingerprint == fingerprint(key.value)
        assert key.value not in repr(key)
        assert (len(key.value), key.made_at, key.retired_at) == (43, NOW, None)


def test_key_from_settings_is_never_renewed(engine):
    with engine.begin() as conn:
        assert keys.settle(conn, (LONG,), OTHER, NOW) == []
        assert not keys.renew_secret(conn, NOW)
        assert keys.stored_keys(conn) == {SUPPRESSION: kept(SUPPRESSION, None)}


def test_renewed_secret_key_has_a_new_value_and_keeps_the_suppression_key(engine):
    with engine.begin() as conn:
        keys.settle(conn, (), None, NOW)
        before = keys.stored_keys(conn)
        assert keys.renew_secret(conn, NOW + HOUR)
        after = keys.stored_keys(conn)

    assert after[SUPPRESSION] == before[SUPPRESSION]
    renewed = after[SECRET]
    assert (renewed.made_at, renewed.fingerprint) == (NOW + HOUR, fingerprint(renewed.value))
    assert renewed.value != before[SECRET].value


def test_fingerprint_is_sixteen_hexadecimal_digits():
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(LONG))
    assert fingerprint(LONG) != fingerprint(OTHER)


# --- Databases of older versions ----------------------------------------------------------------


def test_suppressions_of_an_older_database_are_rehashed_with_the_new_key(engine):
    """That database used a public key; suppressed addresses must receive no mail afterwards."""
    ada, _ = add_reader(engine), add_reader(engine, email=BOB)
    old = addresses.address_hash(ADA, SUPPRESSION_KEY)
    with engine.begin() as conn:
        suppressions.suppress(conn, old, SuppressionReason.HARD, NOW)
        conn.execute(
            StrikeRow.__table__.insert().values(
                address_hash=old, edition_on=NOW.date(), kind="soft", noted_at=NOW
            )
        )

    key = open_services(engine).suppression_key

    new = addresses.address_hash(ADA, key)
    assert (
        fingerprint(key) == {row.name: row.fingerprint for row in rows(engine, KeyRow)}[SUPPRESSION]
    )
    with read_only(engine) as conn:
        assert suppressions.by_hash(conn, new) is not None
        assert conn.execute(select(SuppressionRow.hash)).scalars().all() == [new]
        assert conn.execute(select(StrikeRow.address_hash)).scalars().all() == [new]
        known = select(SubscriberRow.address_hash).where(SubscriberRow.id == ada.id)
        assert conn.execute(known).scalar_one() == new


def test_every_address_hash_column_is_listed_for_rehashing():
    columns = {
        f"{table.name}.{column.name}"
        for table in Table.metadata.tables.values()
        for column in table.columns
        if column.name == "address_hash" or (table.name, column.name) == ("suppressions", "hash")
    }

    assert {f"{one.class_.__tablename__}.{one.key}" for one in keys.HASHES} == columns


def test_suppression_that_cannot_be_rehashed_raises_and_changes_nothing(engine):
    lost = addresses.address_hash("erased@example.org", SUPPRESSION_KEY)
    add_reader(engine)
    with engine.begin() as conn:
        suppressions.suppress(conn, lost, SuppressionReason.COMPLAINT, NOW)

    with pytest.raises(SettingsError, match=r"^SUPPRESSION_KEY: is missing"):
        _ = open_services(engine).keys

    assert rows(engine, KeyRow) == []
    assert open_services(engine, suppression_key=SUPPRESSION_KEY).suppression_key == SUPPRESSION_KEY


def test_wrong_suppression_key_for_an_older_database_is_rejected(engine):
    add_reader(engine, email=BOB)
    add_reader(engine)

    with pytest.raises(SettingsError, match=r"^SUPPRESSION_KEY: is not the key"):
        _ = open_services(engine, suppression_key=OTHER).keys


# --- The doctor ---------------------------------------------------------------------------------


def looked_at(database_url: str, **given: str) -> tuple[bool | None, str]:
    found = doctor.examine(settings.load(None, database_url=database_url, **given), NOW)
    finding = next(one for one in found if one.check == "secret keys")
    return finding.ok, finding.detail


def test_doctor_reports_the_origin_of_the_keys_and_generates_none(engine, database_url):
    assert looked_at(database_url)[1].count("will be generated at the first start") == 2
    assert rows(engine, KeyRow) == []

    made = open_services(engine).keys

    ok, detail = looked_at(database_url, **RELAY)
    assert ok is True
    assert re.findall(r"(\w+) generated on", detail) == ["SECRET_KEY", "SUPPRESSION_KEY"]
    assert made.suppression not in detail
    assert looked_at(database_url, suppression_key=OTHER)[0] is False
    ok, detail = looked_at(database_url, secret_key=LONG, suppression_key=made.suppression)
    assert (ok, detail.count("from the settings")) == (True, 2)


@pytest.mark.full
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_keys_are_never_logged(database_url, capfd):
    environment = {**os.environ, "DATABASE_URL": database_url, "LOG_LEVEL": "DEBUG"}
    paperboy = [sys.executable, "-m", "pipeline"]
    for command in (["db", "upgrade"], ["keys", "list"]):
        subprocess.run([*paperboy, *command], env=environment, cwd=ROOT, check=True, timeout=100)
    engine = open_engine(database_url)
    values = [row.value for row in rows(engine, KeyRow)]
    engine.dispose()
    written = "".join(capfd.readouterr())
    shown = subprocess.run(
        [*paperboy, "keys", "show"], env=environment, cwd=ROOT, capture_output=True, text=True,
        check=True, timeout=100,
    ).stdout  # fmt: skip

    assert "key.created" in written
    for value in values:
        assert value not in written
        assert value in shown
