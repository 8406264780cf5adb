"""Log lines name ids and events, never addresses, passwords or signed links."""

from __future__ import annotations

import json
import logging
import re
import warnings
from pathlib import Path

import pytest
import structlog
from itsdangerous import URLSafeSerializer, URLSafeTimedSerializer
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from pipeline import logs, settings
from pipeline.domain import LinkPurpose


def _configure(level: str, log_format: str) -> None:
    logs.configure(settings.load(None, log_level=level, log_format=log_format))


@pytest.fixture
def logged(capfd):
    """Return a function that parses the JSON lines logged since its last call."""
    _configure("INFO", "json")
    return lambda: [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_event_is_logged_as_one_json_line_with_its_values(logged):
    structlog.get_logger("pipeline.dispatch").info("delivery.settled", delivery=17, status="sent")

    [line] = logged()
    assert line["event"] == "delivery.settled"
    assert (line["delivery"], line["status"]) == (17, "sent")
    assert (line["logger"], line["level"]) == ("pipeline.dispatch", "info")
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "value",
    [
        "ada@example.org",
        "Ada Lovelace <ada@example.org>",
        "550 5.1.1 <ada@example.org>: no such user",
        ["bob", "ada@example.org"],
        {"to": {"ada@example.org": 450}},
        ("envelope", ("ada@example.org",)),
        ValueError("cannot write to ada@example.org"),
        "ada@bücher.example",
    ],
)
def test_addresses_are_redacted(logged, value):
    structlog.get_logger().warning("refused", reply=value)

    [line] = logged()
    assert "ada" not in json.dumps(line["reply"]).replace("Ada Lovelace", "")
    assert "[address]" in json.dumps(line["reply"])


@pytest.mark.parametrize("serializer", [URLSafeSerializer, URLSafeTimedSerializer])
def test_signed_tokens_are_redacted(logged, serializer):
    token = serializer("a key", salt="confirm").dumps({"subscriber": 17})

    structlog.get_logger().info("asked", query=f"token={token}", path=f"/confirm/{token}/x")

    [line] = logged()
    assert line["query"] == "token=[token]"
    assert line["path"] == "/confirm/[token]/x"


def test_unsubscribe_secret_is_redacted_in_the_access_log(logged):
    logging.getLogger("uvicorn.access").info(
        '%s - "%s %s HTTP/%s" %d', "127.0.0.1:1", "POST", "/unsubscribe/s3cret?x=1", "1.1", 200
    )

    [line] = logged()
    assert "s3cret" not in json.dumps(line)
    assert "/unsubscribe/[token]?x=1" in line["event"]


@pytest.mark.parametrize("purpose", [*LinkPurpose, "feeds"])
def test_token_of_a_signed_link_is_redacted_for_every_purpose(logged, purpose):
    """Our tokens are too short to be recognised alone: redact them by the path before them."""
    token = "17.1798076718.FaI6S2jHrxU86G-_z3WwNw"

    structlog.get_logger().info("asked", path=f"/{purpose}/{token}", file="/srv/data/papers.json")

    [line] = logged()
    assert (line["path"], line["file"]) == (f"/{purpose}/[token]", "/srv/data/papers.json")


def test_password_in_a_url_is_redacted(logged):
    structlog.get_logger().info("connecting", to="smtp://ada:hunter2@mail.example.org:587/")

    [line] = logged()
    assert line["to"] == "smtp://***@mail.example.org:587/"


def test_message_id_module_and_paper_are_not_redacted(logged):
    structlog.get_logger().info(
        "sent",
        message_id="<17.digest@papers.example.org>",
        source="pipeline.storage.subscribers",
        paper="arxiv.org/abs/3001.00001",
    )

    [line] = logged()
    assert line["message_id"] == "<17.digest@papers.example.org>"
    assert line["source"] == "pipeline.storage.subscribers"
    assert line["paper"] == "arxiv.org/abs/3001.00001"


def test_traceback_keeps_its_location_and_addresses_are_redacted(logged):
    """Addresses are redacted: SQLAlchemy quotes the parameters of a failed statement."""
    engine = create_engine("sqlite://")
    try:
        with engine.connect() as conn:
            conn.execute(text("SELECT 1 FROM nowhere WHERE x = :x"), {"x": "ada@example.org"})
    except OperationalError:
        structlog.get_logger().exception("task failed")
    engine.dispose()

    [line] = logged()
    assert "test_logs.py" in line["exception"]
    assert "no such table: nowhere" in line["exception"]
    assert "ada" not in line["exception"]


def test_library_loggers_are_redacted_too(logged):
    """Handlers of Celery and uvicorn would print lines without redaction."""
    logger = logging.getLogger("celery.worker.test")
    logger.addHandler(logging.StreamHandler())
    _configure("INFO", "json")

    logger.warning("Task for %s failed", "ada@example.org")

    [line] = logged()
    assert line["event"] == "Task for [address] failed"
    assert line["logger"] == "celery.worker.test"


def test_python_warning_is_logged(logged):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _configure("INFO", "json")
        warnings.warn("old ways of ada@example.org", UserWarning, stacklevel=1)

    [line] = logged()
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "old ways of [address]" in line["event"]


def test_events_below_the_level_are_not_logged(logged):
    _configure("WARNING", "json")

    structlog.get_logger("pipeline").info("no")
    logging.getLogger("alembic.runtime.migration").info("no")

    assert logged() == []


def test_text_format_is_readable_and_redacts_addresses(capfd):
    _configure("INFO", "text")

    structlog.get_logger().info("refused", reply="<ada@example.org>", delivery=17)

    said = capfd.readouterr().err
    assert "refused" in said
    assert "delivery=17" in said
    assert "ada" not in said


def test_every_event_is_named_noun_verb():
    """Alerts and searches match event names, so details belong into fields."""
    events = {
        event
        for path in (Path(__file__).parents[1] / "pipeline").rglob("*.py")
        for event in re.findall(
            r'\blog\.(?:debug|info|warning|error|critical|exception)\(\s*f?"([^"]*)"',
            path.read_text(),
        )
    }

    assert len(events) > 50
    assert [event for event in events if not re.fullmatch(r"[a-z_]+\.[a-z_]+", event)] == []
