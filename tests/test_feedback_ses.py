"""Amazon SES through SNS: only messages signed by its certificate are accepted and applied."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.errors import ForgedError, ProviderError
from pipeline.feedback.webhooks.ses import LARGEST, SES, SNS, Message, fetch, host_of, parse
from tests.support import amazon
from tests.support.amazon import (
    CERTIFICATE,
    HOST,
    SUBSCRIBE,
    TOPIC,
    Amazon,
    about_subscription,
    posted,
)
from tests.support.factories import NOW

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture
def there() -> Amazon:
    return Amazon()


@pytest.fixture
def sns(there) -> SNS:
    return SNS((TOPIC,), there.fetch)


# --- Authentication -----------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [{}, {"Subject": "Amazon SES\nnotification"}])
def test_message_with_a_valid_signature_is_accepted(sns, there, subject):
    message = sns.open(posted("hello\n\u20ac", **subject), NOW)

    assert message == Message("22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324", "hello\n\u20ac")
    assert there.requests == [CERTIFICATE]


def test_a_certificate_is_fetched_once(sns, there):
    for _ in range(3):
        sns.open(posted("hello"), NOW)

    assert there.requests == [CERTIFICATE]


@pytest.mark.parametrize(
    "body",
    [
        posted("hello", signed_by="eve"),
        posted("hello", after={"Message": "goodbye"}),
        posted("hello", after={"Subject": "added"}),
        posted("hello", after={"MessageId": "another"}),
        posted("hello", after={"Timestamp": "2030-01-02T08:00:01.000Z"}),
        posted("hello", after={"Signature": "AAAA"}),
        posted("hello", after={"Signature": "not base64!"}),
        posted("hello", after={"Type": "UnsubscribeConfirmation"}),
        posted("hello", after={"Message": None}),
        posted("hello", sha1=True),
        posted("hello", SignatureVersion="1"),
        posted("hello", SignatureVersion=2),
        posted("hello", sha1=True, after={"SignatureVersion": "2"}),
        posted("hello", TopicArn="arn:aws:sns:eu-west-1:666666666666:bounces"),
        posted("hello", Timestamp="2030-01-01T07:59:59.000Z"),
        posted("hello", Timestamp="2030-01-02T08:05:01.000Z"),
        posted("hello", Timestamp="2030-01-02T08:00:00"),
        posted("hello", Timestamp="today"),
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'{"Type": "Notification"}',
        b"[" * 100_000,
    ],
)
def test_forged_or_invalid_message_is_rejected(sns, body):
    with pytest.raises(ForgedError):
        sns.open(body, NOW)


@pytest.mark.parametrize(
    "url",
    [
        CERTIFICATE.replace("https:", "http:"),
        CERTIFICATE.replace("eu-west-1", "us-east-1"),
        CERTIFICATE.replace("amazonaws.com", "amazonaws.com.evil.example"),
        CERTIFICATE.replace("https://", "https://evil.example#@"),
        CERTIFICATE.replace("https://", "https://evil.example@"),
        CERTIFICATE.replace(".com/", ".com:8443/"),
        CERTIFICATE.replace("/Simple", "/bucket/Simple"),
        CERTIFICATE.replace(".pem", ".txt"),
        f"{HOST}/?Action=Publish",
        "https://[",
        "file:///etc/passwd",
        "",
    ],
)
def test_certificate_from_an_invalid_url_is_not_fetched(sns, there, url):
    with pytest.raises(ForgedError):
        sns.open(posted("hello", signed_by="eve", SigningCertURL=url), NOW)

    assert there.requests == []


@pytest.mark.parametrize(
    "pem", [b"no certificate", amazon.certificate("eve"), amazon.certificate(begins=NOW + DAY)]
)
def test_invalid_certificate_is_rejected(sns, there, pem):
    there.pages[CERTIFICATE] = pem

    with pytest.raises(ForgedError):
        sns.open(posted("hello"), NOW)


def test_message_is_accepted_on_retry_after_a_failed_certificate_fetch(sns, there):
    del there.pages[CERTIFICATE]
    with pytest.raises(ProviderError):
        sns.open(posted("hello"), NOW)

    there.pages[CERTIFICATE] = amazon.certificate()

    assert sns.open(posted("hello"), NOW)


def test_only_one_thread_waits_for_a_certificate(there):
    begun, go_on = threading.Event(), threading.Event()

    def fetch_slowly(url):
        begun.set()
        assert go_on.wait(20)
        return there.fetch(url)

    sns = SNS((TOPIC,), fetch_slowly)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(sns.open, posted("hello"), NOW)
        assert begun.wait(20)
        with pytest.raises(ProviderError):
            sns.open(posted("hello"), NOW)
        go_on.set()

        assert waiting.result()


@pytest.mark.parametrize(("age", "taken"), [(timedelta(0), True), (DAY, True), (-5 * MINUTE, True)])
def test_message_up_to_a_day_old_is_accepted(sns, age, taken):
    at = (NOW - age).strftime("%Y-%m-%dT%H:%M:%S.000Z")

    assert bool(sns.open(posted("hello", Timestamp=at), NOW)) is taken


@pytest.mark.parametrize(
    ("topic", "host"),
    [
        (TOPIC, "sns.eu-west-1.amazonaws.com"),
        ("arn:aws-cn:sns:cn-north-1:123456789012:b", "sns.cn-north-1.amazonaws.com.cn"),
        ("arn:aws-us-gov:sns:us-gov-west-1:123456789012:b", "sns.us-gov-west-1.amazonaws.com"),
    ],
)
def test_host_of_returns_the_host_of_a_topic(topic, host):
    assert host_of(topic) == host


# --- The subscription itself --------------------------------------------------------------------


def test_subscription_of_a_configured_topic_is_confirmed(sns, there):
    assert sns.open(about_subscription(), NOW) is None

    assert there.requests == [CERTIFICATE, SUBSCRIBE]


@pytest.mark.parametrize(
    "url",
    [
        SUBSCRIBE.replace("sns.eu", "sns.evil"),
        SUBSCRIBE.replace("https", "http"),
        SUBSCRIBE.replace("ConfirmSubscription", "DeleteTopic"),
        SUBSCRIBE.replace("123456789012", "666666666666"),
        SUBSCRIBE.replace(HOST, "https://127.0.0.1"),
        f"{SUBSCRIBE}&Action=DeleteTopic",
    ],
)
def test_subscription_with_an_invalid_url_is_rejected_and_not_confirmed(sns, there, url):
    with pytest.raises(ForgedError):
        sns.open(about_subscription(SubscribeURL=url), NOW)

    assert there.requests == [CERTIFICATE]


def test_unsubscribe_confirmation_returns_no_message(sns, there):
    assert sns.open(about_subscription("UnsubscribeConfirmation"), NOW) is None

    assert there.requests == [CERTIFICATE]


# --- Events -------------------------------------------------------------------------------------


def notices(said) -> tuple[Notice, ...]:
    return parse(Message("1", json.dumps(said))).notices


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("type_", "subtype", "said", "kind", "verdict"),
    [
        ("Permanent", "General", {}, "hard", Verdict.HARD),
        ("Permanent", "NoEmail", {}, "hard", Verdict.HARD),
        ("Permanent", "Suppressed", {"status": "5.1.1"}, "hard", Verdict.HARD),
        ("Permanent", "OnAccountSuppressionList", {}, "hard", Verdict.HARD),
        ("Permanent", "General", {"status": "5.1.1"}, "hard", Verdict.HARD),
        ("Permanent", "General", {"status": "5.0.0"}, "hard", Verdict.HARD),
        ("Permanent", "General", {"status": "5.7.1"}, "soft", Verdict.BLOCKED),
        ("Permanent", "General", {"status": "5.7.26"}, "soft", Verdict.AUTHENTICATION),
        (
            "Permanent",
            "General",
            {"diagnosticCode": "smtp; 554 5.7.1 listed at DNSBL"},
            "soft",
            Verdict.BLOCKED,
        ),
        ("Transient", "General", {}, "soft", Verdict.DEFERRED),
        ("Transient", "General", {"status": "4.4.7"}, "soft", Verdict.DEFERRED),
        ("Transient", "General", {"status": "5.3.0"}, "soft", Verdict.SOFT),
        ("Transient", "General", {"status": "5.1.1"}, "soft", Verdict.SOFT),
        ("Transient", "MailboxFull", {"status": "4.2.2"}, "soft", Verdict.FULL),
        ("Transient", "MessageTooLarge", {}, "soft", Verdict.TOO_LARGE),
        ("Transient", "ContentRejected", {}, "soft", Verdict.BLOCKED),
        ("Transient", "AttachmentRejected", {}, "soft", Verdict.BLOCKED),
        ("Undetermined", "Undetermined", {}, "soft", Verdict.SOFT),
        (
            "Undetermined",
            "Undetermined",
            {"diagnosticCode": "smtp;552 5.2.2 mailbox full"},
            "soft",
            Verdict.FULL,
        ),
    ],
)
def test_bounce_is_classified_by_type_and_diagnostic(type_, subtype, said, kind, verdict, old):
    (notice,) = notices(amazon.bounce(type_, subtype, old=old, **said))

    assert (notice.kind, notice.verdict) == (kind, verdict)
    assert notice.recipients == ("ada@example.org",)


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("feedback", "kind"),
    [
        ("abuse", NoticeKind.COMPLAINT),
        ("fraud", NoticeKind.COMPLAINT),
        (None, NoticeKind.COMPLAINT),
        ("not-spam", NoticeKind.NONE),
    ],
)
def test_complaint_is_recognised_unless_it_is_not_spam(feedback, kind, old):
    (notice,) = notices(amazon.complaint(feedback, old=old))

    assert (notice.kind, notice.recipients) == (kind, ("ada@example.org",))


@pytest.mark.parametrize(
    ("type_", "kinds"),
    [
        ("Delivery", [NoticeKind.NONE]),
        ("Send", [NoticeKind.NONE]),
        ("DeliveryDelay", [NoticeKind.DELAYED]),
        ("Reject", []),
        ("Rendering Failure", []),
        ("Open", []),
        ("Something New", []),
    ],
)
def test_other_events_are_informational(type_, kinds):
    event = parse(Message("1", json.dumps({"eventType": type_, "mail": amazon.mail()})))

    assert event.kind == type_
    assert [notice.kind for notice in event.notices] == kinds


def test_event_has_message_id_envelope_and_queue_id():
    """SES replaces our Message-ID; its events have both."""
    headers = [{"name": "Message-Id", "value": "<ours@example.org>"}]
    mail = amazon.mail(
        headers=headers,
        source="Papers <bounces+token@example.org>",
        commonHeaders={"messageId": "<theirs@email.amazonses.com>"},
    )

    event = parse(Message("7", json.dumps(amazon.bounce(mail=mail))))

    (notice,) = event.notices
    assert (event.id, event.queue_id) == ("7", "0100-000000")
    assert notice.message_id == "<ours@example.org>"
    assert notice.envelope == "bounces+token@example.org"


@pytest.mark.parametrize(
    "words",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"eventType": ["Bounce"]}',
        '{"eventType": "Bounce"}',
        '{"eventType": "Bounce", "bounce": [], "mail": 3}',
        '{"eventType": "Bounce", "bounce": {"bouncedRecipients": {}}, "mail": {"headers": 1}}',
        '{"notificationType": "Received\\u0000\\ud800", "mail": {"messageId": {}}}',
    ],
)
def test_malformed_event_is_read_without_notices(words):
    event = parse(Message("1", words))

    assert event.notices == ()
    assert "\0" not in event.kind + event.raw


def test_bounce_with_malformed_fields_is_read():
    said = amazon.bounce(status=5, diagnosticCode=[], emailAddress=None, mail={"headers": [1]})

    (notice,) = notices(said)

    assert (notice.kind, notice.recipients, notice.status) == (NoticeKind.HARD, ("",), None)


def test_receive_returns_one_event_per_message_and_none_for_a_subscription(sns):
    ses = SES(sns)

    assert [e.kind for e in ses.receive({}, posted(amazon.bounce()), NOW)] == ["Bounce"]
    assert list(ses.receive({}, about_subscription(), NOW)) == []


# --- Fetching -----------------------------------------------------------------------------------


class _Amazon(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/small")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = b"x" * (LARGEST + 1 if self.path == "/large" else 10)
        self.send_response(500 if self.path == "/broken" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Amazon)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_fetch_rejects_large_responses_redirects_and_errors(site):
    assert fetch(f"{site}/small") == b"x" * 10
    for path in ("/large", "/moved", "/broken"):
        with pytest.raises(ProviderError):
            fetch(f"{site}{path}")
    with pytest.raises(ProviderError, match="ConnectionError"):
        fetch("http://127.0.0.1:9/")
