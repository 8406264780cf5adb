"""Mails of joining, changing and leaving: links work, and no text of a visitor is included."""

from __future__ import annotations

import email
import email.policy
import re
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from sqlalchemy import Engine

from pipeline import bootstrap, settings, signup
from pipeline.bootstrap import Services
from pipeline.domain import MAIL_KINDS, Delivery, DeliveryKind, SubscriberStatus
from pipeline.errors import RenderError
from pipeline.signup import Choices, parse_queries
from pipeline.storage import deliveries
from tests.support.factories import NOW, make_delivery

HOUR = timedelta(hours=1)
SITE = "https://papers.example.org"
ADA, NEW = "ada@example.org", "ada@new.example"
TRANSACTIONAL = [kind for kind in DeliveryKind if not MAIL_KINDS[kind].is_list]


@pytest.fixture
def services(database_url: str) -> Services:
    return bootstrap.build(settings.load(None, database_url=database_url, site_url=SITE))


@pytest.fixture
def engine(services: Services):
    yield services.engine
    services.engine.dispose()


def ask(services: Services, now=NOW) -> None:
    choices = Choices(parse_queries(('"win a prize at example.com"',)))
    signup.request_subscription(
        services.engine, ADA, choices, ip=None, suppression_key=services.suppression_key, now=now
    )


def received(services: Services, now=NOW) -> EmailMessage:
    """Claim the one due delivery and return its mail as parsed by a mail client."""
    with services.engine.begin() as conn:
        (delivery,) = deliveries.claim(conn, 9, "token", HOUR, now)
    return read(services, delivery, now)


def read(services: Services, delivery: Delivery, now=NOW) -> EmailMessage:
    wire = services.compose(delivery, None, now=now).replace(b"\r\n..", b"\r\n.")
    return email.message_from_bytes(wire, policy=email.policy.default)


def token(mail: EmailMessage, page: str) -> str:
    """Return the token of the only link to `page`, which both bodies contain."""
    found = [
        set(re.findall(rf"{SITE}/{page}/([\w.-]+)", mail.get_body((form,)).get_content()))
        for form in ("plain", "html")
    ]
    assert found[0] == found[1]
    (only,) = found[0]
    return only


def join(services: Services) -> int:
    ask(services)
    request_id = services.links.read_confirm(token(received(services), "confirm"), NOW)
    return signup.confirm(services.engine, request_id, NOW).subscriber.id


@pytest.mark.usefixtures("engine")
def test_confirmation_link_confirms_its_request(services: Services):
    """The link expires with its request, even if the mail is sent late."""
    ask(services)

    mail = received(services, NOW + 70 * HOUR)

    assert mail["To"] == ADA
    assert "expires in 2 hours" in " ".join(mail.get_body(("plain",)).get_content().split())
    last = NOW + 72 * HOUR - timedelta(seconds=1)
    request_id = services.links.read_confirm(token(mail, "confirm"), last)
    confirmed = signup.confirm(services.engine, request_id, last)
    assert confirmed.subscriber.status is SubscriberStatus.ACTIVE


def test_preferences_link_mail_opens_the_preferences_of_its_reader(
    services: Services, engine: Engine
):
    reader_id = join(services)
    signup.ask_link(engine, ADA, ip=None, suppression_key=services.suppression_key, now=NOW)

    mail = received(services)

    assert services.links.read_preferences(token(mail, "preferences"), NOW) == reader_id
    signup.leave(engine, token(mail, "unsubscribe"), NOW)


def test_already_subscribed_reader_is_notified(services: Services, engine: Engine):
    reader_id = join(services)
    ask(services, NOW + HOUR)

    mail = received(services, NOW + HOUR)

    assert mail["Subject"] == "You are already subscribed to Paperboy"
    assert services.links.read_preferences(token(mail, "preferences"), NOW) == reader_id


def test_data_link_mail_contains_a_valid_data_token(services: Services, engine: Engine):
    reader_id = join(services)
    signup.ask_data_link(engine, reader_id, NOW)

    mail = received(services)

    assert services.links.read_data(token(mail, "data"), NOW + 23 * HOUR) == reader_id


def test_new_address_confirmation_does_not_contain_the_old_address(
    services: Services, engine: Engine
):
    signup.ask_new_address(
        engine, join(services), NEW, ip=None, suppression_key=services.suppression_key, now=NOW
    )

    mail = received(services)

    assert mail["To"] == NEW
    assert ADA not in mail.as_string()
    request_id = services.links.read_new_address(token(mail, "new-address"), NOW)
    assert signup.confirm_new_address(engine, request_id, NOW).subscriber.email == NEW


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", TRANSACTIONAL)
@pytest.mark.usefixtures("engine")
def test_transactional_mails_have_no_list_headers_or_address_in_html(services: Services, kind):
    delivery = make_delivery(ADA, kind=kind, request_id=5)

    mail = read(services, delivery)

    for name in ("List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Precedence"):
        assert name not in mail
    assert mail["Auto-Submitted"] == "auto-generated"
    assert f":{MAIL_KINDS[kind].feedback_name}:" in mail["Feedback-ID"]
    assert ADA not in mail.get_body(("html",)).get_content()
    assert "<mj-" not in mail.get_body(("html",)).get_content()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("kind", ["confirmation", "new-address", "digest"])
@pytest.mark.usefixtures("engine")
def test_mail_without_its_data_raises_render_error(services: Services, kind: str):
    with pytest.raises(RenderError):
        services.compose(make_delivery(kind=DeliveryKind(kind)), None, now=NOW)


def test_every_kind_of_mail_has_an_entry_with_its_templates_and_link():
    emails = Path(__file__).resolve().parents[1] / "emails"

    assert set(MAIL_KINDS) == set(DeliveryKind)
    for mail in MAIL_KINDS.values():
        assert (emails / f"{mail.template}.mjml").is_file()
        assert (emails / f"{mail.template}.txt").is_file()
        assert (mail.is_list or mail.to_operator) == (mail.link is None)
