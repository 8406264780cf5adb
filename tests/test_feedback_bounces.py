"""`paperboy bounces read` and the workers apply each returned mail once."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from pipeline import bootstrap, cli, settings
from pipeline.storage import addresses
from tests.support import dovecot, outbox
from tests.support.bounces import ADA, recipient, report
from tests.support.factories import NOW

GONE = report(recipient("5.1.1", "smtp; 550 5.1.1 No such user"))


@pytest.fixture
def sent(sqlite_url, tmp_path, monkeypatch):
    """Store a sent digest, and its bounce in a file and in a Maildir; yield the services."""
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    monkeypatch.setenv("BOUNCE_ADDRESS", "bounces@example.org")
    bootstrap.services.cache_clear()
    built = bootstrap.services()
    key = built.suppression_key
    subscriber = outbox.add_subscriber(
        built.engine, ADA, address_hash=addresses.address_hash(ADA, key)
    )
    id_ = outbox.add_delivery(built.engine, subscriber_id=subscriber, status="sent", sent_at=NOW)
    outbox.accept_others(built.engine)
    bounced_to = built.sender.envelope(id_, outbox.row(built.engine, id_).dedupe_key)
    back = GONE.replace(b"To: ", b"To: " + bounced_to.encode() + b"\r\nX-To: ", 1)
    for folder in ("new", "cur", "tmp"):
        (tmp_path / "Maildir" / folder).mkdir(parents=True)
    (tmp_path / "back.eml").write_bytes(back)
    (tmp_path / "Maildir" / "new" / "1.a").write_bytes(back)
    yield built
    built.engine.dispose()
    bootstrap.services.cache_clear()


def apply(*arguments):
    result = CliRunner().invoke(cli.app, ["bounces", "read", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    # Logging is not set up here, so logs go to stdout, too.
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]


def test_bounce_read_from_two_places_is_applied_once(sent, tmp_path):
    """The mail is read from a file, and again from a Maildir, where it is marked as seen."""
    (first,), (again,) = apply(tmp_path / "back.eml"), apply(tmp_path / "Maildir")

    assert (first["kind"], first["effect"]) == ("hard", "suppressed")
    assert (again["kind"], again["effect"]) == ("hard", "known")
    assert list(outbox.suppressions(sent.engine).values()) == ["hard"]
    assert [path.name for path in (tmp_path / "Maildir" / "cur").iterdir()] == ["1.a:2,S"]
    assert apply(tmp_path / "Maildir") == []


def test_a_dry_run_applies_nothing(sent, tmp_path):
    assert apply(tmp_path / "Maildir", "--dry-run")[0]["kind"] == "hard"

    assert outbox.suppressions(sent.engine) == {}
    assert (tmp_path / "Maildir" / "new" / "1.a").exists()


@pytest.mark.dovecot
def test_read_own_mailbox_applies_and_moves_bounces(sent, tmp_path):
    with dovecot.open_dovecot() as server:
        server.deliver((tmp_path / "back.eml").read_bytes())
        loaded = settings.load(None, bounce_mailbox=server.url(), bounce_address="b@example.org")
        services = bootstrap.Services(loaded, sent.engine)

        for _ in range(2):
            services.read_own_mailbox(NOW)

        assert server.holds() == []
        assert len(server.holds("Paperboy")) == 1
    assert list(outbox.suppressions(sent.engine).values()) == ["hard"]
