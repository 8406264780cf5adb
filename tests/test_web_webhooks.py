"""Webhooks: events are verified, stored once, and not stored if they are forged."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from pipeline.domain import Verdict
from pipeline.errors import EventError, ForgedError
from pipeline.feedback.webhooks import generic
from pipeline.feedback.webhooks.generic import Generic, parse, sign
from pipeline.feedback.webhooks.ses import SES, SNS
from pipeline.storage.schema import EventRow
from pipeline.web import ops
from tests.support import amazon, outbox
from tests.support.factories import NOW
from tests.support.newsroom import rows
from tests.support.outbox import row
from tests.support.site import ADA, ELSEWHERE, Site, now, open_site

SECRET, OLD_SECRET = "n" * 32, "o" * 32


@pytest.fixture
def backend() -> str:
    """Return SQLite only: test_feedback.py covers the effect of events on both databases."""
    return "sqlite"


@pytest.fixture
def site(engine: Engine) -> Site:
    site = open_site(engine, hook_secret=f"{SECRET} {OLD_SECRET}", ses_topics=amazon.TOPIC)
    there = amazon.Amazon()
    site.services.providers["ses"] = SES(SNS((amazon.TOPIC,), there.fetch))
    return site


@pytest.fixture
def sent(site: Site) -> Any:
    """A digest to Ada that the server accepted."""
    site.reader(ADA)
    site.announce()
    site.publish()
    (delivery,) = site.deliveries()
    outbox.alter(site.engine, delivery.id, status="sent", sent_at=now(), queue_id="0100-000000")
    outbox.accept_others(site.engine, row(site.engine, delivery.id).edition_on)
    return delivery


def post(site: Site, said: Any, *, secret=SECRET, at=None, body=None, url="/hooks/generic") -> Any:
    body = json.dumps(said).encode() if body is None else body
    at = str(int((at or now()).timestamp()))
    headers = {
        "X-Paperboy-Timestamp": at,
        "X-Paperboy-Signature": f"v1={sign(secret, at, body)}",
        "Content-Type": "application/json",
    }
    return site.post(url, content=body, headers={**headers, **ELSEWHERE})


def bounced(sent, id_="e1", **changes):
    return {"id": id_, "event": "bounce", "status": "5.1.1", "recipient": ADA, **changes}


# --- Generic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, OLD_SECRET])
def test_signed_bounce_suppresses_once(site, sent, secret):
    """The old secret is still valid, so that the sender can change to the new one later."""
    message_id = site.services.message_id(sent.dedupe_key)

    answers = [
        post(site, bounced(sent, message_id=message_id), secret=secret).status_code
        for _ in range(2)
    ]

    assert answers == [200, 200]
    assert list(outbox.suppressions(site.engine).values()) == ["hard"]
    (kept,) = rows(site.engine, EventRow)
    assert (kept.provider, kept.event_id, kept.kind) == ("generic", "e1", "bounce")
    assert (kept.delivery_id, kept.effect) == (sent.id, "suppressed")
    assert json.loads(kept.raw)["recipient"] == ADA


def test_mail_is_identified_by_queue_id_and_recipient_together(site, sent):
    post(site, bounced(sent, queue_id="0100-000000", recipient="eve@example.org"))
    assert outbox.suppressions(site.engine) == {}

    post(site, bounced(sent, "e2", queue_id="0100-000000"))

    assert list(outbox.suppressions(site.engine).values()) == ["hard"]


@pytest.mark.full
@pytest.mark.parametrize("minutes", [-6, 6])
def test_forged_or_old_event_is_rejected_and_not_stored(site, sent, minutes):
    said = bounced(sent, queue_id="0100-000000")
    answers = [
        post(site, said, secret="e" * 32),
        post(site, said, at=now() + timedelta(minutes=minutes)),
        site.post("/hooks/generic", json=said),
        site.post("/hooks/generic", json=said, headers={"X-Paperboy-Signature": "v1="}),
    ]

    assert [answer.status_code for answer in answers] == [403] * 4
    assert rows(site.engine, EventRow) == []
    assert outbox.suppressions(site.engine) == {}
    assert row(site.engine, sent.id).reason == sent.reason


def test_event_batch_is_accepted_and_unknown_events_are_stored(site, sent):
    said = [{"id": "a", "event": "opened"}, {"id": "b", "event": "delivered"}, {"id": "c"}]

    assert post(site, said).status_code == 200

    kept = [(event.event_id, event.kind, event.effect) for event in rows(site.engine, EventRow)]
    assert sorted(kept) == [
        ("a", "opened", "noted"), ("b", "delivered", "not ours"), ("c", "unknown", "noted"),
    ]  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"event": "bounce"}', b'[{"id": ""}]'])
def test_signed_invalid_body_returns_400(site, body):
    assert post(site, None, body=body).status_code == 400
    assert rows(site.engine, EventRow) == []


def test_bounce_verdict_uses_the_smtp_reply_table():
    def verdict(**said):
        (notice,) = parse({"id": "1", "event": "bounce", **said}).notices
        return notice.kind, notice.verdict

    assert verdict(status="5.1.1") == ("hard", Verdict.HARD)
    assert verdict(reason="550 5.2.2 mailbox full") == ("soft", Verdict.FULL)
    assert verdict(reason="450 greylisted") == ("soft", Verdict.GREYLISTED)
    assert verdict(status="5.7.1") == ("soft", Verdict.BLOCKED)
    assert verdict(reason="no such user") == ("hard", Verdict.HARD)
    assert verdict() == ("soft", Verdict.SOFT)
    assert verdict(status="5.0.0", verdict="full") == ("soft", Verdict.FULL)
    assert verdict(status={}, reason=3, verdict=[]) == ("soft", Verdict.SOFT)


def test_signatures_are_computed_once_per_secret(monkeypatch):
    """Hashing a megabyte for each signature of a forged request took 16 s of CPU time."""
    hashed = []
    monkeypatch.setattr(generic, "sign", lambda *given: hashed.append(given) or "0" * 64)
    headers = {
        "x-paperboy-timestamp": str(int(NOW.timestamp())),
        "x-paperboy-signature": ",".join(["v1=ff"] * 1_000),
    }

    with pytest.raises(ForgedError):
        Generic([SECRET, OLD_SECRET]).receive(headers, b"{}", NOW)

    assert len(hashed) == 2


def test_signature_covers_timestamp_dot_and_body():
    """This is the format that docs/bounces-and-webhooks.md documents for senders."""
    made = hmac.new(b"secret", b'1893571200.{"id": "1"}', hashlib.sha256).hexdigest()

    assert sign("secret", "1893571200", b'{"id": "1"}') == made


def test_one_valid_signature_of_several_is_accepted():
    """The sender rotates its secret, too."""
    at, body = str(int(NOW.timestamp())), b'{"id": "1", "event": "delivered"}'
    generic = Generic((SECRET,))

    def receive(signature, at=at):
        headers = {"x-paperboy-timestamp": at, "x-paperboy-signature": signature}
        return generic.receive(headers, body, NOW)

    assert receive(f"v1=00, v1={sign(SECRET, at, body)}")
    for wrong in ("", "v1=é", f"v2={sign(SECRET, at, body)}", sign(SECRET, at, body + b" ")):
        with pytest.raises(ForgedError):
            receive(wrong)
    with pytest.raises(ForgedError):
        receive(f"v1={sign(SECRET, 'soon', body)}", at="soon")
    with pytest.raises(EventError):
        generic.receive(
            {
                "x-paperboy-timestamp": at,
                "x-paperboy-signature": sign(SECRET, at, b"[" + b"{}," * 1000 + b"{}]"),
            },
            b"[" + b"{}," * 1000 + b"{}]",
            NOW,
        )


# --- SES ----------------------------------------------------------------------------------------


def timestamp():
    return now().strftime("%Y-%m-%dT%H:%M:%S.000Z")


@pytest.mark.parametrize("old", [True, False])
def test_ses_bounce_suppresses_once(site, sent, old):
    said = amazon.bounce(old=old, mail=mail(), emailAddress=ADA)
    body = amazon.posted(said, Timestamp=timestamp())

    answers = [site.post("/hooks/ses", content=body, headers=ELSEWHERE) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert list(outbox.suppressions(site.engine).values()) == ["hard"]
    (kept,) = rows(site.engine, EventRow)
    assert (kept.kind, kept.delivery_id, kept.effect) == ("Bounce", sent.id, "suppressed")


def test_forged_ses_bounce_is_rejected(site, sent):
    said = amazon.bounce(mail=mail(), emailAddress=ADA)
    bodies = [
        amazon.posted(said, Timestamp=timestamp(), signed_by="eve"),
        amazon.posted("{}", Timestamp=timestamp(), after={"Message": json.dumps(said)}),
        json.dumps(said).encode(),
    ]

    answers = [site.post("/hooks/ses", content=body).status_code for body in bodies]

    assert answers == [403] * 3
    assert rows(site.engine, EventRow) == []
    assert outbox.suppressions(site.engine) == {}


def test_unverifiable_ses_event_returns_503(site, sent):
    site.services.providers["ses"] = SES(SNS((amazon.TOPIC,), amazon.Amazon(pages={}).fetch))

    answer = site.post("/hooks/ses", content=amazon.posted("{}", Timestamp=timestamp()))

    assert answer.status_code == 503


def mail():
    return amazon.mail(destination=[ADA], messageId="0100-000000", headers=[
        {"name": "Message-ID", "value": "<somebody's@example.org>"},
    ])  # fmt: skip


# --- The endpoint -------------------------------------------------------------------------------


def test_unconfigured_provider_returns_404(engine):
    site = open_site(engine)

    for name in ("ses", "generic", "nobody", ""):
        assert site.post(f"/hooks/{name}", content=b"{}").status_code == 404


def test_oversized_hook_body_returns_413(site):
    answer = post(site, None, body=b" " * (ops.LARGEST + 1))

    assert answer.status_code == 413


def test_get_on_a_hook_returns_405(site):
    assert site.get("/hooks/generic").status_code == 405
