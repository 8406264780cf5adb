"""`doctor` runs every check, changes nothing, and continues if a check raises."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis import Redis
from sqlalchemy import Engine
from typer.testing import CliRunner

from pipeline import doctor, settings
from pipeline.bootstrap import Services
from pipeline.broker import Worker
from pipeline.cli import app
from pipeline.doctor import database, services, site
from pipeline.doctor import settings as settings_checks
from pipeline.doctor.finding import Check, Finding, Installation
from pipeline.domain import CountedEvent, SourceState
from pipeline.storage import daily_counts, ingest_state, send_controls, subscribers
from pipeline.storage.database import read_only
from pipeline.storage.ingest_state import SourceRecord
from pipeline.web import create_app
from pipeline.web.server import listen, server
from tests.support.certificates import make_authority
from tests.support.newsroom import rows
from tests.support.servers import Inbox
from tests.support.sinks import FEATURES, HANG_UP, open_sink
from tests.support.tiny_model import write_model
from tests.support.visitors import locks

NOW = datetime.now(UTC)
REAL = {
    "smtp_url": "smtp://paperboy:hunter2@mail.example.org",
    "site_url": "https://papers.example.org",
    "mail_from": "Papers <papers@example.org>",
    "operator_address": "1 Example Street, Exampletown",
    "secret_key": "a-key-of-thirty-two-characters...",
    "suppression_key": "another-key-of-that-many-chars...",
}

Examine = Callable[..., dict[str, Finding]]


@pytest.fixture
def examine() -> Iterator[Examine]:
    """Return a function that runs one check with some settings; it returns findings by name."""
    patients: list[Installation] = []

    def examine(check: Check, now: datetime = NOW, **given: str) -> dict[str, Finding]:
        patients.append(Installation(settings.load(None, **given), now))
        return {finding.check: finding for finding in check(patients[-1])}

    yield examine
    for installation in patients:
        installation.services.engine.dispose()


# --- Settings -----------------------------------------------------------------------------------


def test_complete_settings_for_real_mail_pass(examine):
    for check in (settings_checks.settings, settings_checks.sender, settings_checks.secret_keys):
        assert [finding.ok for finding in examine(check, **REAL).values()] == [True]


def test_missing_operator_address_is_reported(examine):
    found = examine(settings_checks.settings, **{**REAL, "operator_address": ""})["settings"]

    assert found.ok is False
    assert "OPERATOR_ADDRESS" in found.detail


def test_weak_secret_is_reported_without_its_value(examine):
    found = examine(settings_checks.secret_keys, **{**REAL, "secret_key": "hunter2"})
    dear = examine(settings_checks.secret_keys, **{**REAL, "suppression_key": "hunter2"})

    assert found["secret keys"].ok is False
    assert "SECRET_KEY" in found["secret keys"].detail
    assert "hunter2" not in found["secret keys"].detail
    assert dear["secret keys"].ok is False
    assert "keep it" in dear["secret keys"].advice, "a new one would void all suppressions"


def test_unreadable_dkim_key_is_reported(examine):
    found = examine(settings_checks.dkim_keys, dkim_keys="news1:/nowhere.pem")["dkim keys"]

    assert found.ok is False
    assert "DKIM_KEYS" in found.detail


# --- Database -----------------------------------------------------------------------------------


def test_semantic_model_is_loaded_if_one_is_configured(examine, tmp_path):
    """A model that cannot be loaded would stop ingest and publish."""
    check, folder = settings_checks.semantic_model, write_model(tmp_path / "model")

    assert examine(check) == {}
    assert "vectors of 3" in examine(check, semantic_model=str(folder))["semantic model"].detail
    found = examine(check, semantic_model=str(tmp_path / "nowhere"))["semantic model"]
    assert (found.ok, "nowhere" in found.detail) == (False, True)


def test_up_to_date_database_passes(examine, database_url):
    for check in (database.database, database.migrations, database.local_disk):
        assert [f.ok for f in examine(check, database_url=database_url).values()] == [True]


def test_database_without_migrations_is_reported(examine, empty_database_url):
    if empty_database_url.startswith("sqlite"):
        Path(empty_database_url.removeprefix("sqlite:///")).touch()

    found = examine(database.migrations, database_url=empty_database_url)["migrations"]

    assert found.ok is False
    assert "paperboy db upgrade" in found.advice


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_durability_passes(examine, database_url):
    found = examine(database.durability, database_url=database_url)["durability"]

    assert found.ok is True
    assert found.detail == "journal_mode is wal, synchronous is full"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_postgresql_with_fsync_off_is_reported(examine, database_url):
    """The PostgreSQL server of the tests runs with fsync off, for speed."""
    found = examine(database.durability, database_url=database_url)["durability"]

    assert found.ok is False
    assert "fsync is off" in found.detail
    assert "synchronous_commit" not in found.detail, "we switch it on ourselves"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_missed_announcement_is_reported(examine, engine, database_url):
    with engine.begin() as conn:
        for name, error in (("arxiv", "the feed of 2030-01-01 was missed"), ("other", None)):
            state = SourceState.FRESH
            ingest_state.put_source_state(
                conn, SourceRecord(name, state, NOW, NOW, read_at=NOW, error=error)
            )

    found = examine(database.sources, database_url=database_url)

    assert found["source arxiv"].ok is False
    assert "the feed of 2030-01-01 was missed" in found["source arxiv"].detail
    assert found["source other"].ok is True


def test_overdue_steps_and_bad_rates_are_reported(examine, engine, database_url):
    with engine.begin() as conn:
        send_controls.pause(conn, None, "maintenance", NOW - timedelta(days=2))
        counts = {("digest", CountedEvent.SENT): 4_000, ("digest", CountedEvent.COMPLAINED): 5}
        daily_counts.add(conn, counts, NOW - timedelta(days=3))

    found = examine(services.progress, database_url=database_url)

    assert found["progress"].detail == "sending is stopped by the operator, for 2880 minutes"
    assert found["complaints"].ok is False
    assert found["complaints"].detail.startswith("0.12% of 4000 mails")
    assert found["bounces"].ok is True


def test_rates_and_progress_of_a_new_installation_pass(examine, database_url):
    found = examine(services.progress, database_url=database_url)

    assert {name: finding.ok for name, finding in found.items()} == {
        "progress": True, "complaints": True, "bounces": True
    }  # fmt: skip


def test_disk_with_little_space_is_reported(examine, database_url, monkeypatch):
    assert examine(database.disk, database_url=database_url)["disk"].ok is True

    monkeypatch.setattr(database, "LOW_SPACE", 1 << 60)
    found = examine(database.disk, database_url=database_url)

    assert found["disk"].ok is False
    assert found["disk"].detail.endswith("MB are free")
    assert ("database size" in found) is database_url.startswith("postgresql")


def test_checks_create_no_database_file(examine, tmp_path):
    path = tmp_path / "paperboy.db"

    for check in database.CHECKS:
        examine(check, database_url=f"sqlite:///{path}")

    assert not path.exists()


def test_unreachable_database_is_reported_without_its_password(examine):
    url = "postgresql://paperboy:hunter2@127.0.0.1:1/paperboy"

    found = [f for check in database.CHECKS for f in examine(check, database_url=url).values()]

    assert [finding.ok for finding in found] == [False, None, None, True, True, None, None]
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/paperboy/paperboy.db", "nfs4"),
        ("/srv/other.db", "ext4"),
        ("/srv/paperboys/other.db", "ext4"),
    ],
)
def test_filesystem_returns_the_nearest_mount_of_a_path(path, kind):
    mounts = "proc /proc proc rw 0 0\n/dev/a / ext4 rw 0 0\nhost:/x /srv/paperboy nfs4 rw 0 0\n"

    assert database.filesystem(Path(path), mounts) == kind


def test_database_file_mounted_alone_is_reported(examine, tmp_path, monkeypatch):
    """A file mounted with `-v ./paperboy.db:/srv/paperboy.db` has a separate WAL on each side."""
    path = tmp_path / "with space" / "paperboy.db"
    mounts = tmp_path / "mounts"
    escaped = str(path).replace(" ", "\\040")
    mounts.write_text(f"/dev/a / ext4 rw 0 0\n/dev/a {escaped} ext4 rw 0 0\n")
    monkeypatch.setattr(database, "MOUNTS", mounts)

    found = examine(database.local_disk, database_url=f"sqlite:///{path}")["local disk"]

    assert found.ok is False
    assert "mount its folder" in found.advice


@pytest.mark.parametrize("kind", ["overlay", "tmpfs"])
def test_container_filesystem_passes_with_advice_to_use_a_volume(
    examine, tmp_path, monkeypatch, kind
):
    mounts = tmp_path / "mounts"
    mounts.write_text(f"overlay / {kind} rw 0 0\n")
    monkeypatch.setattr(database, "MOUNTS", mounts)

    found = examine(database.local_disk, database_url=f"sqlite:///{tmp_path}/p.db")["local disk"]

    assert found.ok is True
    assert "volume" in found.advice


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_database_file_readable_by_others_is_reported_and_unchanged(examine, engine, tmp_path):
    """The check does not open the file: closing it would drop this process's locks on it."""
    url, path = str(engine.url), tmp_path / "paperboy.db"
    path.chmod(0o600)
    private = examine(database.database_file, database_url=url)["database file"]
    path.chmod(0o640)

    with read_only(engine):
        wide = examine(database.database_file, database_url=url)["database file"]
        held = locks(path)

    assert (private.ok, wide.ok) == (True, False)
    assert wide.advice.startswith(f"run: chmod 600 {path}")
    assert path.stat().st_mode & 0o777 == 0o640
    assert str(os.getpid()) in held


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_hard_linked_database_file_is_reported(examine, database_url, tmp_path):
    path = tmp_path / "paperboy.db"
    path.chmod(0o600)
    path.with_name("same.db").hardlink_to(path)

    found = examine(database.database_file, database_url=database_url)["database file"]

    assert found.ok is False
    assert "2 hard links" in found.detail


# --- Redis --------------------------------------------------------------------------------------


def test_redis_that_evicts_is_reported(examine, valkey):
    with contextlib.closing(Redis.from_url(valkey)) as client:
        assert [f.ok for f in examine(services.redis, redis_url=valkey).values()] == [True, True]

        client.config_set("maxmemory-policy", "allkeys-lru")
        found = examine(services.redis, redis_url=valkey)["redis eviction"]
        client.config_set("maxmemory-policy", "noeviction")

    assert found.ok is False
    assert "allkeys-lru" in found.detail


def test_unreachable_redis_is_reported_without_its_password(examine):
    found = examine(services.redis, redis_url="redis://:hunter2@127.0.0.1:1/0")["redis"]

    assert found.ok is False
    assert "hunter2" not in str(found)


# --- The mail server ----------------------------------------------------------------------------


def look(examine: Examine, **given: str) -> dict[str, Finding]:
    checks = (services.smtp, services.smtp_tls, services.smtp_extensions)
    return {name: found for check in checks for name, found in examine(check, **given).items()}


def test_local_mail_server_passes_and_receives_no_mail(examine, inbox):
    found = look(examine, smtp_url=inbox.url)

    assert [finding.ok for finding in found.values()] == [True, True, True]
    assert inbox.received == []


def test_unreachable_mail_server_is_reported(examine):
    found = look(examine, smtp_url="smtp://127.0.0.1:1")

    assert [finding.ok for finding in found.values()] == [False, None, None]


def test_wrong_smtp_password_is_reported_without_its_value(examine):
    script = {"features": (*FEATURES, "AUTH PLAIN"), "logins": {"me": "right"}}
    with open_sink(**script) as sink:
        wrong = look(examine, smtp_url=f"smtp://me:hunter2@127.0.0.1:{sink.port}")["smtp"]
        right = look(examine, smtp_url=f"smtp://me:right@127.0.0.1:{sink.port}")["smtp"]

    assert (wrong.ok, right.ok) == (False, True)
    assert "user and password" in wrong.advice
    assert "hunter2" not in str(wrong)


def test_server_that_hangs_up_at_quit_passes(examine):
    with open_sink(answers={"QUIT": HANG_UP}) as sink:
        found = look(examine, smtp_url=f"smtp://127.0.0.1:{sink.port}")

    assert [finding.ok for finding in found.values()] == [True, True, True]


def test_server_with_a_small_size_limit_is_reported(examine):
    with open_sink(features=("SIZE 20000",)) as sink:
        small = look(examine, smtp_url=f"smtp://127.0.0.1:{sink.port}")["smtp extensions"]
    with open_sink(features=("SIZE 0", "8BITMIME")) as sink:
        plain = look(examine, smtp_url=f"smtp://127.0.0.1:{sink.port}")["smtp extensions"]

    assert small.ok is False
    assert plain.ok is True
    assert "8BITMIME, SIZE" in plain.detail
    assert "PIPELINING" in plain.advice


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def tls(authority: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem")
    return context


@pytest.mark.parametrize("implicit_tls", [True, False])
def test_expiring_or_untrusted_certificate_of_the_mail_server_is_reported(
    examine, authority, tls, implicit_tls
):
    """The test certificate expires in two days; the doctor warns if fewer than 14 are left."""
    with open_sink(tls=tls, implicit_tls=implicit_tls) as sink:
        given = {
            "smtp_url": f"smtp{'s' if implicit_tls else ''}://127.0.0.1:{sink.port}",
            "smtp_tls": "required",
            "smtp_ca_file": str(authority / "ca.pem"),
        }
        ends_soon = examine(services.smtp_tls, **given)["smtp tls"]
        holds = examine(services.smtp_tls, now=NOW - timedelta(days=30), **given)["smtp tls"]
        del given["smtp_ca_file"]
        stranger = examine(services.smtp, **given)["smtp"]

    assert ends_soon.ok is False
    assert holds.ok is True
    assert holds.detail.startswith("TLSv1.")
    assert stranger.ok is False
    assert "SMTP_CA_FILE" in stranger.advice


# --- The site -----------------------------------------------------------------------------------


@pytest.fixture
def running_site(engine: Engine) -> Iterator[str]:
    """Run the site on loopback; yield its URL."""
    with listen("127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running = server(create_app(Services(settings.load(None, site_url=url), engine)))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
        thread.start()
        yield url
        running.should_exit = True
        thread.join()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_one_click_unsubscribe_is_checked_without_a_subscriber(
    examine, running_site, database_url, engine
):
    found = examine(site.one_click, site_url=running_site)["one-click"]
    clock = examine(site.clock, site_url=running_site, database_url=database_url)["clock"]

    assert found.ok is True
    assert clock.ok is True
    assert "the site" in clock.detail
    assert rows(engine, subscribers.SubscriberRow, subscribers.SubscriberRow.id) == []


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Run a site that sends the same response to each request; yield its URL."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
                    # Closing with unread input would send a reset, which may overtake the response.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()


@pytest.mark.parametrize("status", ["302 Found\r\nLocation: /login", "405 No", "500 Broken"])
def test_failing_one_click_unsubscribe_is_reported(examine, status):
    """RFC 8058, section 3.1: a redirect fails, too."""
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with answering(answer.encode()) as url:
        found = examine(site.one_click, site_url=url)["one-click"]

    assert found.ok is False
    assert status[:3] in found.detail


def test_clock_that_differs_from_the_site_is_reported(examine):
    answer = b"HTTP/1.1 200 OK\r\nDate: Wed, 02 Jan 2030 08:00:00 GMT\r\nConnection: close\r\n\r\n"
    with answering(answer) as url:
        found = examine(site.clock, site_url=url)["clock"]

    assert found.ok is False
    assert "off the site" in found.detail


def test_clock_of_a_worker_that_differs_is_reported():
    installation = Installation(settings.load(None), NOW)
    vars(installation).update(
        way_out=None, workers=[Worker("a@host", ("edition",), timedelta(seconds=-65))]
    )

    [found] = site.clock(installation)

    assert (found.ok, found.detail) == (False, "65 s off the worker a@host")
    installation.services.engine.dispose()


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_clock_is_compared_with_the_database_on_postgresql(examine, database_url):
    found = examine(site.clock, site_url="http://127.0.0.1:1", database_url=database_url)["clock"]

    assert found.ok is True
    assert found.detail == "agrees with the database"


def test_unreachable_site_is_not_judged(examine):
    for check in site.CHECKS:
        for found in examine(check, site_url="https://127.0.0.1:1").values():
            assert found.ok is None


def test_expiring_or_untrusted_certificate_of_the_site_is_reported(
    examine, authority, tls, monkeypatch
):
    with open_sink(tls=tls, implicit_tls=True) as sink:  # any server that speaks TLS
        url = f"https://127.0.0.1:{sink.port}"
        stranger = examine(site.site_tls, site_url=url)["site tls"]
        monkeypatch.setenv("SSL_CERT_FILE", str(authority / "ca.pem"))
        ends_soon = examine(site.site_tls, site_url=url)["site tls"]
        holds = examine(site.site_tls, now=NOW - timedelta(days=30), site_url=url)["site tls"]

    assert (stranger.ok, ends_soon.ok, holds.ok) == (False, False, True)
    assert "browsers trust" in stranger.advice


def test_http_site_fails_unless_it_is_a_local_trial(examine):
    """http is a trial only if SITE_URL is not public and no relay or server sends real mail."""
    given, relay = {"site_url": "http://papers.example.org"}, "smtp://127.0.0.1:25"
    public = {"site_url": "http://papers.of-a-lab.org", "smtp_url": "smtp://127.0.0.1:2525"}

    assert examine(site.site_tls, **given)["site tls"].ok is None
    assert examine(site.site_tls, smtp_url=REAL["smtp_url"], **given)["site tls"].ok is False
    assert examine(site.site_tls, smtp_url=relay, **given)["site tls"].ok is False
    assert examine(site.site_tls, **public)["site tls"].ok is False


# --- All checks ---------------------------------------------------------------------------------


def test_every_check_runs_once():
    run = [check for area in doctor.AREAS for check in area.CHECKS]
    written = {
        function
        for area in doctor.AREAS
        for function in vars(area).values()
        if inspect.isfunction(function)
        and not function.__name__.startswith("_")
        and list(function.__annotations__.values()) == ["Installation", "Iterator[Finding]"]
    }

    assert len(run) == len(set(run))
    assert set(run) == written


def test_one_broken_check_does_not_stop_the_others(monkeypatch):
    """The check that raised is reported by name, and the others still run."""

    def own_mistake(_patient: Installation) -> Iterator[Finding]:
        yield Finding("first half", True, "")
        raise ZeroDivisionError

    monkeypatch.setattr(services, "CHECKS", (own_mistake,))

    found = list(doctor.examine(settings.load(None, site_url="http://127.0.0.1:1"), NOW))

    by_name = {finding.check: finding for finding in found}
    assert by_name["first half"].ok is True
    assert by_name["own mistake"].ok is None
    assert "ZeroDivisionError" in by_name["own mistake"].detail
    assert "sample digest" in by_name


def test_invalid_sender_does_not_stop_the_other_checks(tmp_path):
    loaded = settings.load(
        None,
        database_url=f"sqlite:///{tmp_path / 'missing.db'}",
        mail_from=f"papers@{'.'.join(['x' * 60] * 4)}.example",  # too long for an envelope
        site_url="http://127.0.0.1:1",
    )

    found = {finding.check: finding for finding in doctor.examine(loaded, NOW)}

    assert found["sender"].ok is False
    assert found["spf"].ok is False
    assert found["database"].ok is False


def test_examine_ends_soon_if_the_dns_server_is_silent(name_server_silent):
    """Each check has a timeout, and a silent DNS is waited for only once."""
    loaded = settings.load(
        None,
        mail_from="papers@example.org",
        smtp_url="smtp://127.0.0.1:1",
        site_url="http://127.0.0.1:1",
        dns_server=name_server_silent,
    )
    started = time.monotonic()

    found = {finding.check: finding for finding in doctor.examine(loaded, NOW)}

    assert time.monotonic() - started < 20
    for check in ("spf", "dmarc", "dmarc alignment", "mx"):
        assert found[check].ok is None
        assert "no DNS server can be reached" in found[check].detail


@pytest.fixture
def name_server_silent() -> Iterator[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unread:
        unread.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unread.getsockname()[1]}"


@pytest.fixture
def healthy(sqlite_url: str, valkey: str, inbox: Inbox, tmp_path, monkeypatch) -> None:
    """Set up an installation on this machine in which no check fails."""
    monkeypatch.chdir(tmp_path)
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("SMTP_URL", inbox.url)
    monkeypatch.setenv("SITE_URL", "http://127.0.0.1:1")


@pytest.mark.usefixtures("healthy")
def test_exit_code_is_0_without_failures_and_1_with_one(monkeypatch):
    """The exit code is 0 even if some checks could not run, and 1 if one fails."""
    well = CliRunner().invoke(app, ["doctor", "--json"])
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    ill = CliRunner().invoke(app, ["doctor", "--json"])

    assert (well.exit_code, ill.exit_code) == (0, 1), well.stdout
    for row in map(json.loads, well.stdout.splitlines()):
        assert list(row) == ["check", "ok", "detail", "advice"]
        assert row["ok"] in {True, None}
        assert row["detail"]
    named = {json.loads(line)["check"] for line in well.stdout.splitlines()}
    assert named > {"settings", "database", "redis", "smtp", "spf", "templates", "clock"}


@pytest.mark.usefixtures("healthy")
def test_invalid_settings_are_reported_as_a_finding(monkeypatch):
    """No other check can run without settings."""
    monkeypatch.setenv("SMTP_URL", "smpt://me:hunter2@mail.example.org")

    ill = CliRunner().invoke(app, ["doctor", "--json"])

    [row] = map(json.loads, ill.stdout.splitlines())
    assert (ill.exit_code, row["check"], row["ok"]) == (1, "settings", False)
    assert "SMTP_URL" in row["detail"]
    assert "hunter2" not in ill.output


@pytest.mark.usefixtures("healthy")
def test_text_output_shows_failures_with_advice(monkeypatch):
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")

    said = CliRunner().invoke(app, ["doctor"]).stdout

    assert "FAIL redis: no usable Redis server at 127.0.0.1:1" in said
    assert "-> start Redis, or correct REDIS_URL" in said
    assert "1 failed" in said


def test_outbound_proxy_is_tried_if_one_is_set(examine, valkey):
    port = urlsplit(valkey).port
    proxy = f"http://ada:canary@127.0.0.1:{port}"

    assert examine(settings_checks.outbound_proxy) == {}
    found = examine(settings_checks.outbound_proxy, https_proxy=proxy, no_proxy="lab.example")
    missing = examine(settings_checks.outbound_proxy, https_proxy="http://127.0.0.1:1")

    assert found["outbound proxy"].ok
    assert found["outbound proxy"].detail.endswith(f":{port}, except lab.example")
    assert missing["outbound proxy"].ok is False


def test_a_pause_by_the_operator_is_reported_and_no_failure(engine, database_url):
    with engine.begin() as conn:
        send_controls.pause(conn, None, "moving to another provider", NOW)
    installation = Installation(settings.load(None, database_url=database_url), NOW)

    [found] = services.sending(installation)
    installation.services.engine.dispose()

    assert (found.ok, found.detail, found.advice) == (
        True,
        "all sending is paused by the operator: moving to another provider",
        "to resume, run paperboy sending start",
    )


# --- The checks of the hourly task --------------------------------------------------------------


# The Valkey of the tests may evict, and their PostgreSQL runs without fsync.
NOT_HERE = {"redis eviction", "durability"}


def test_unattended_checks_report_failures_only(engine, database_url, valkey):
    loaded = settings.load(None, database_url=database_url, redis_url=valkey)
    assert [f for f in doctor.failures(loaded, NOW) if f.check not in NOT_HERE] == []

    with engine.begin() as conn:
        reason = "20 of 20 mails were refused alike"
        send_controls.pause(conn, NOW.date(), reason, NOW, automatic=True)
        breaker = send_controls.open_breaker(conn, "535 No", NOW, timedelta(minutes=1))
    assert breaker
    [found] = [f for f in doctor.failures(loaded, NOW) if f.check not in NOT_HERE]

    assert found.check == "progress"
    assert found.detail == f"sending of {NOW.date()} is held: {reason}"
