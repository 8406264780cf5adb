"""Benchmark of sending: the real dispatcher, smtp-source and plain Python, round by round.

Each leg has a sink of its own, so that the CPU time of the sink is known for each leg.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import SMTP
from functools import partial
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory
from typing import Any, Final

from pipeline import bootstrap, mailbox, settings
from pipeline.bench import baselines, outbox, sinks
from pipeline.bench.outbox import Outbox, QueuedDigest
from pipeline.bench.profile import Meter, Step, measured
from pipeline.bench.sinks import Sink
from pipeline.bootstrap import Services
from pipeline.domain import Delivery, Digest, MailContent
from pipeline.errors import PaperboyError
from pipeline.smtp import SMTPTransport

SAMPLE: Final = 100  # digests compared before timing; smtp-source gets one of them
PLAIN_SHARE: Final = 200  # maximum mails of a plain leg: it is slow at a steady rate
SITE: Final = "https://papers.example.org"


@dataclass(frozen=True, slots=True)
class Plan:
    mails: int = 2_000  # per round
    papers: int = 10  # per digest
    rounds: int = 5
    sessions: int = 20
    database_url: str | None = None  # None: SQLite in a temporary file


@dataclass(frozen=True, slots=True)
class Leg:
    """The mails of a round, sent in one way."""

    mails: int
    seconds: float
    sender_cpu: float  # seconds
    sink_cpu: float
    octets: int = 0  # of all mails, if known
    steps: Mapping[Step, float] | None = None  # thread CPU in seconds

    @property
    def per_second(self) -> float:
        return self.mails / self.seconds

    def us(self, seconds: float) -> float:
        """Return microseconds per mail."""
        return seconds / self.mails * 1e6


@dataclass(frozen=True, slots=True)
class Round:
    """Legs run one after the other, so that they run under the same conditions."""

    paperboy: Leg
    plain: Leg
    smtp_source: Leg | None  # None if Postfix is not installed
    smtp_source_reusing: Leg | None

    @property
    def ratio_plain(self) -> float:
        return self.paperboy.per_second / self.plain.per_second

    @property
    def ratio_smtp_source(self) -> float | None:
        return _ratio(self.paperboy, self.smtp_source)

    @property
    def ratio_smtp_source_reusing(self) -> float | None:
        return _ratio(self.paperboy, self.smtp_source_reusing)


def _ratio(ours: Leg, theirs: Leg | None) -> float | None:
    return ours.per_second / theirs.per_second if theirs else None


# --- Results ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Report:
    plan: Plan
    sink: str  # "smtp-sink", or "python" if Postfix is not installed
    database: str
    rounds: Sequence[Round]

    def as_json(self) -> dict[str, Any]:
        ours = [round_.paperboy for round_ in self.rounds]
        rates = [leg.per_second for leg in ours]
        return {
            "emails_per_s": round(median(rates), 1),
            "ratio_smtp_source": self.ratio("ratio_smtp_source"),
            "ratio_plain": self.ratio("ratio_plain"),
            "us_per_mail": self.us_per_mail(),
            "ratio_smtp_source_reusing": self.ratio("ratio_smtp_source_reusing"),
            "emails_per_s_range": [round(min(rates), 1), round(max(rates), 1)],
            "smtp_source_per_s": self.rate("smtp_source"),
            "smtp_source_reusing_per_s": self.rate("smtp_source_reusing"),
            "plain_per_s": self.rate("plain"),
            "sender_cpu_us": round(median(leg.us(leg.sender_cpu) for leg in ours), 1),
            "sink_cpu_us": round(median(leg.us(leg.sink_cpu) for leg in ours), 1),
            "bytes_per_mail": round(mean(leg.octets / leg.mails for leg in ours)),
            "database": self.database,
            "sink": self.sink,
            "mails": self.plan.mails,
            "papers": self.plan.papers,
            "sessions": self.plan.sessions,
            "rounds": [_row(round_) for round_ in self.rounds],
        }

    def us_per_mail(self) -> dict[str, float]:
        """Return thread CPU of the sender by step, in microseconds per mail (median of rounds)."""
        ours = [round_.paperboy for round_ in self.rounds]
        return {
            step: round(median(leg.us((leg.steps or {}).get(step, 0.0)) for leg in ours), 1)
            for step in Step
        }

    def rate(self, leg: str) -> float | None:
        """Return mails per second of one way of sending; median of the rounds.

        None if this way did not run.
        """
        legs = [found for round_ in self.rounds if (found := getattr(round_, leg))]
        return round(median(found.per_second for found in legs), 1) if legs else None

    def ratio(self, name: str) -> float | None:
        """Return the median of the rounds' ratios; None if there was nothing to compare with."""
        ratios = [found for round_ in self.rounds if (found := getattr(round_, name)) is not None]
        return round(median(ratios), 3) if ratios else None


def _row(round_: Round) -> dict[str, float | None]:
    names = ("paperboy", "smtp_source", "smtp_source_reusing", "plain")
    legs = {name: getattr(round_, name) for name in names}
    return {name: round(leg.per_second, 1) if leg else None for name, leg in legs.items()}


# --- Run ----------------------------------------------------------------------------------------


def run(plan: Plan, progress: Callable[[Round], None] = lambda _round: None) -> Report:
    """Run the benchmark; pass each round to the callback when it ends.

    Raise PaperboyError unless every mail arrived, and the sample has the content of plain
    rendering.
    """
    with (
        outbox.temporary_database(plan.database_url) as url,
        TemporaryDirectory(prefix="paperboy-bench-") as folder,
    ):
        services = bootstrap.build(_settings(plan, url))
        try:
            course = _Course.prepared(plan, services, Path(folder))
            rounds = []
            for number in range(1, plan.rounds + 1):
                rounds.append(course.round(number))
                progress(rounds[-1])
            sink = "smtp-sink" if course.sink else "python"
            return Report(plan, sink, services.engine.dialect.name, rounds)
        finally:
            services.engine.dispose()


def _settings(plan: Plan, database_url: str) -> settings.Settings:
    return settings.load(
        env_file=None,
        database_url=database_url,
        smtp_url="smtp://127.0.0.1:25",  # replaced by the port of each leg's sink
        smtp_connections=plan.sessions,
        smtp_tls="auto",
        site_url=SITE,
        mail_from="Paperboy <papers@example.org>",
        operator_address="1 Example Street, Exampletown",
    )


@dataclass(frozen=True, slots=True)
class _Course:
    """Fixture shared by all rounds."""

    plan: Plan
    services: Services
    outbox: Outbox
    source: str | None  # path of smtp-source
    sink: str | None  # path of smtp-sink
    message: Path  # sent by smtp-source

    @classmethod
    def prepared(cls, plan: Plan, services: Services, folder: Path) -> _Course:
        """Fill a database, send a sample, and compare its content with plain rendering."""
        now = datetime.now(UTC)
        papers = outbox.ingest_samples(services.engine, now)
        outbox.require(papers, plan.papers)
        readers = outbox.add_readers(
            services.engine, plan.mails, papers, services.suppression_key, now
        )
        box = Outbox(services.engine, papers, readers, services.renderer.template_version)
        box.fill(0, plan.papers, now, SAMPLE)
        sample = check_content(services, now)
        size = mean(map(len, sample))
        typical = min(sample, key=lambda raw: abs(len(raw) - size))
        message = baselines.message_file(typical, folder)
        sink = sinks.postfix("smtp-sink")
        source = sinks.postfix("smtp-source") if sink else None
        return cls(plan, services, box, source, sink, message)

    def round(self, number: int) -> Round:
        """Run each leg once; rotate the order in each round, for fairness."""
        # Keep only the digests that the plain leg needs: the garbage collector of the dispatcher
        # would have to traverse the others, which a real sender does not have.
        digests = self.outbox.fill(number, self.plan.papers, datetime.now(UTC))[:PLAIN_SHARE]
        gc.collect()
        ways: list[tuple[str, Callable[[], Leg | None]]] = [
            ("paperboy", self._paperboy),
            ("smtp_source", partial(self._smtp_source, reuse=False)),
            ("smtp_source_reusing", partial(self._smtp_source, reuse=True)),
            ("plain", partial(self._plain, digests)),
        ]
        first = (number - 1) % len(ways)
        legs: dict[str, Any] = {name: way() for name, way in ways[first:] + ways[:first]}
        return Round(**legs)

    # --- Legs -----------------------------------------------------------------------------------

    def _paperboy(self) -> Leg:
        meter = Meter()
        with self._expecting(self.plan.mails) as sink:
            transport = at_port(self.services.transport, sink.port)
            dispatcher = measured(replace(self.services.dispatcher(), transport=transport), meter)
            cpu, started = time.process_time(), time.perf_counter()
            dispatcher.drain(once=True)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        steps = {**meter.seconds, Step.REST: cpu - sum(meter.seconds.values())}
        return Leg(self.plan.mails, seconds, cpu, sink.cpu, meter.octets, steps)

    def _smtp_source(self, *, reuse: bool) -> Leg | None:
        if self.source is None:
            return None
        mails, sessions = self.plan.mails, self.plan.sessions
        with self._expecting(mails) as sink:
            cpu = sinks.children_cpu()
            seconds = baselines.smtp_source(
                self.source,
                sink.port,
                mails=mails,
                sessions=sessions,
                message=self.message,
                reuse=reuse,
            )
            cpu = sinks.children_cpu() - cpu
        return Leg(mails, seconds, cpu, sink.cpu)

    def _plain(self, digests: Sequence[QueuedDigest]) -> Leg:
        with self._expecting(len(digests)) as sink:
            cpu = time.process_time()
            seconds = baselines.plain(self.services, sink.port, digests, datetime.now(UTC))
            cpu = time.process_time() - cpu
        return Leg(len(digests), seconds, cpu, sink.cpu)

    @contextmanager
    def _expecting(self, mails: int) -> Iterator[Sink]:
        """Yield a new sink. At the end, raise PaperboyError if it did not receive all `mails`."""
        with sinks.running(self.sink) as sink:
            yield sink
            arrived = sink.wait_for(mails)
        if arrived != mails:
            raise PaperboyError(f"only {arrived} of {mails} mails arrived at the sink")


# --- Check before timing ------------------------------------------------------------------------


@dataclass
class Letterbox:
    """SMTP handler (aiosmtpd) that stores messages by recipient, dot-unstuffed."""

    received: dict[str, bytes] = field(default_factory=dict)

    handle_EHLO = staticmethod(mailbox.greet)  # noqa: N815

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.received[envelope.rcpt_tos[0]] = envelope.content
        return "250 2.0.0 Ok"


def check_content(services: Services, now: datetime) -> list[bytes]:
    """Send all due digests to a local server; return the messages as received.

    Raise PaperboyError unless each has the content that `Renderer.page` returns for its digest.
    """
    box, composed = Letterbox(), dict[str, tuple[Delivery, Digest]]()
    dispatcher = services.dispatcher(now)
    compose = dispatcher.compose

    def remembering(delivery: Delivery, digest: MailContent | None) -> bytes:
        if isinstance(digest, Digest):
            composed[delivery.email] = (delivery, digest)
        return compose(delivery, digest)

    with mailbox.listen(box, "127.0.0.1", 0) as port:
        transport = at_port(services.transport, port)
        replace(dispatcher, transport=transport, compose=remembering).drain(once=True)
    _compare(services, composed, box.received, now)
    return list(box.received.values())


def at_port(transport: SMTPTransport, port: int) -> SMTPTransport:
    return replace(transport, server=replace(transport.server, port=port))


def _compare(
    services: Services,
    composed: Mapping[str, tuple[Delivery, Digest]],
    received: Mapping[str, bytes],
    now: datetime,
) -> None:
    if not composed or composed.keys() != received.keys():
        raise PaperboyError(f"{len(received)} of {len(composed)} digests of the sample arrived")
    for email, (delivery, digest) in composed.items():
        plain = services.renderer.page(digest, services.mail_links(delivery, now))
        if decoded(received[email]) != [_lines(part) for part in plain]:
            raise PaperboyError(f"the digest for {email} does not say what the plain way says")


def decoded(raw: bytes) -> Sequence[str]:
    """Return subject, HTML and text of a message as a mail app decodes them."""
    message = BytesParser(policy=SMTP).parsebytes(raw)
    assert isinstance(message, EmailMessage)  # noqa: S101  (what this policy makes)
    return [message["Subject"], _content(message, "html"), _content(message, "plain")]


def _content(message: EmailMessage, subtype: str) -> str:
    part = message.get_body(preferencelist=(subtype,))
    return "" if part is None else _lines(part.get_content())


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n")
