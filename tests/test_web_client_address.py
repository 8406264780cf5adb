"""A proxy that the settings do not name is detected: all its visitors would count as one."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace
from typing import cast

import pytest
from sqlalchemy import Engine, create_engine
from starlette.requests import HTTPConnection
from starlette.testclient import TestClient

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.doctor import site as checks
from pipeline.doctor.finding import Finding, Installation
from pipeline.storage import rate_limits, retention
from pipeline.storage.database import read_only
from pipeline.web import create_app
from pipeline.web.client_address import ProxyWatch, is_proxy
from tests.support.site import now

PUBLIC = "9.9.9.9"  # addresses for examples count as private
DAY = timedelta(days=1)
FORWARDED = {"X-Forwarded-For": "203.0.113.9"}


def ask(engine: Engine, peer: str, times: int = 3, headers=FORWARDED, **changes: str) -> None:
    loaded = settings.load(None, **changes)
    app = create_app(Services(loaded, engine))
    browser = TestClient(app, base_url=loaded.site_url, client=(peer, 5000))
    with browser:  # one event loop, so that background stores finish
        for _ in range(times):
            browser.get("/healthz", headers=headers)
        time.sleep(0.2)


def seen(engine: Engine) -> list[str]:
    with read_only(engine) as conn:
        return rate_limits.memo(conn, rate_limits.PROXIES)


def doctor(url: str, **changes: str) -> Finding:
    installation = Installation(settings.load(None, database_url=url, **changes), now())
    (finding,) = checks.proxies(installation)
    installation.services.engine.dispose()
    return finding


@pytest.mark.parametrize(
    "header", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "CF-Connecting-IP", "Via"]
)
def test_doctor_names_the_proxy_missing_from_trusted_proxies(
    engine: Engine, database_url: str, header: str
):
    ask(engine, "172.18.0.1", headers={header: "203.0.113.9"})

    found = doctor(database_url, trusted_proxies="10.0.0.1")
    named = doctor(database_url, trusted_proxies="10.0.0.1 172.16.0.0/12")

    assert found.ok is False
    assert "172.18.0.1" in found.detail
    assert found.advice.endswith("TRUSTED_PROXIES=10.0.0.1 172.18.0.1")
    assert named.ok


def test_repeated_forwarded_requests_log_a_proxy_at_most_once(
    engine: Engine, capsys: pytest.CaptureFixture[str]
):
    ask(engine, "172.18.0.1", times=50)

    assert seen(engine) == ["172.18.0.1"]
    assert capsys.readouterr().out.count("proxy.untrusted") <= 1


@pytest.mark.parametrize(
    ("peer", "times", "headers", "changes"),
    [
        ("172.18.0.1", 9, FORWARDED, {"trusted_proxies": "172.16.0.0/12"}),  # it is named
        ("172.18.0.1", 9, {}, {}),  # nothing was forwarded
        (PUBLIC, 9, FORWARDED, {}),  # a visitor sent the header
        ("172.18.0.1", 2, FORWARDED, {}),  # too few: a visitor tries headers
    ],
)
def test_other_peers_are_not_reported_as_a_proxy(
    engine, database_url, peer, times, headers, changes
):
    ask(engine, peer, times, headers, **changes)

    assert seen(engine) == []
    assert doctor(database_url, **changes).ok


def test_public_proxy_must_send_half_of_all_requests():
    assert is_proxy(PUBLIC, 20, 40)
    assert not is_proxy(PUBLIC, 19, 19)
    assert not is_proxy(PUBLIC, 20, 41)
    assert not is_proxy("10.0.0.7", 2, 2)
    assert is_proxy("100.64.0.7", 3, 1_000)
    assert is_proxy("fd00::7", 3, 1_000)


class Watched(ProxyWatch):
    """A watch with a clock set by hand; `stored` collects the peers that it would store."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.stored = 0.0, list[str]()
        monkeypatch.setattr("pipeline.web.client_address.time.monotonic", lambda: self.clock)
        loop = SimpleNamespace(run_in_executor=lambda _, __, peer: self.stored.append(peer))
        monkeypatch.setattr("pipeline.web.client_address.asyncio.get_running_loop", lambda: loop)
        super().__init__(cast("Engine", None), ())

    def sees(self, peer: str, times: int = 1, *, forwarded: bool = True) -> list[str]:
        headers = [(b"x-forwarded-for", b"203.0.113.9")] if forwarded else []
        request = HTTPConnection({"type": "http", "client": (peer, 5000), "headers": headers})
        for _ in range(times):
            self.see(request)
        return self.stored


def test_private_peer_is_a_proxy_after_three_forwarded_requests(monkeypatch):
    watch = Watched(monkeypatch)

    assert watch.sees("10.0.0.7", 9, forwarded=False) == []
    assert watch.sees("10.0.0.7", 2) == []
    assert watch.sees("10.0.0.7") == ["10.0.0.7"]


def test_public_peer_is_a_proxy_after_25_forwarded_requests_and_half_of_all(monkeypatch):
    watch = Watched(monkeypatch)

    watch.sees("198.51.99.1", 25, forwarded=False)
    assert watch.sees(PUBLIC, 24) == []  # of 49
    assert watch.sees(PUBLIC) == [PUBLIC]


def test_requests_are_counted_and_proxies_noted_per_hour(monkeypatch):
    watch = Watched(monkeypatch)

    watch.sees("10.0.0.7", 2)
    watch.clock = 3_600.0
    assert watch.sees("10.0.0.7") == ["10.0.0.7"]  # still the same hour
    watch.clock = 7_199.0
    assert watch.sees("10.0.0.7", 9) == ["10.0.0.7"]
    watch.clock = 7_200.0
    assert watch.sees("10.0.0.7") == ["10.0.0.7"] * 2
    watch.clock = 20_000.0
    assert watch.sees("10.0.0.7", 2) == ["10.0.0.7"] * 2  # the count started again
    assert watch.sees("10.0.0.7") == ["10.0.0.7"] * 3


def test_at_most_a_thousand_peers_are_counted(monkeypatch):
    watch = Watched(monkeypatch)

    for number in range(999):
        watch.sees(f"10.0.{number // 250}.{number % 250}")
    watch.sees("10.9.0.1")
    assert watch.sees("10.9.0.2", 9) == []  # the 1,001st
    assert watch.sees("10.9.0.1", 2) == ["10.9.0.1"]


def test_proxy_watch_does_not_raise_if_the_database_fails(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/empty.db")

    ProxyWatch(engine, ())._store("10.0.0.7")

    engine.dispose()


def test_proxy_not_seen_recently_is_deleted(engine: Engine):
    with engine.begin() as conn:
        rate_limits.put_memo(conn, "proxy:10.0.0.7", now() - 3 * DAY)
        rate_limits.put_memo(conn, "proxy:10.0.0.8", now())
        retention.delete_counters(conn, before=now() - 2 * DAY, limit=100)

    assert seen(engine) == ["10.0.0.8"]
