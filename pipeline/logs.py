"""Structured logs on stderr: events with ids, as coloured text or as JSON for programs."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

# Secrets that are redacted in log lines, and their replacements. The order matters: a password in a
# URL and a Message-ID both look like an address.
LOGIN = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")
LINK = re.compile(
    # A folder may be called data, so `data/` is a link only if a token follows.
    r"(?<=/)(confirm|preferences|unsubscribe|digests|feeds|new-address|data(?=/\d+\.\d))/[^/\s?#\"'<>]+"
)
TOKEN = re.compile(
    r"[\w-]{8,}\.(?:[\w-]{4,}\.)?(?=[\w-]*[A-Z0-9])[\w-]{27,}"  # itsdangerous: payload.[time.]sum
)
ADDRESS = re.compile(r"[^\s@<>\"'(),:;=\[\]{}]+@[^\s@<>\"'(),:;=\[\]{}]+")
MESSAGE_ID_KEYS = frozenset({"message_id"})  # not redacted: needed to find the delivery

NOISY = {  # minimum levels of loggers with an INFO that we count as DEBUG
    "alembic": logging.WARNING,
    "celery.beat": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "mail.log": logging.WARNING,
    "pylatexenc": logging.ERROR,
    "urllib3": logging.INFO,
    "uvicorn.access": logging.INFO,
}

log = structlog.get_logger(__name__)

MOST_SET_ASIDE = 10_000  # rows remembered as logged
LONGEST_REASON = 200


class LogSettings(Protocol):
    """The settings that `configure` reads."""

    @property
    def log_level(self) -> str: ...

    @property
    def log_format(self) -> str:
        """Return `text`, `json`, or `auto`: text if stderr is a terminal, else JSON."""


def configure(settings: LogSettings) -> None:
    """Send our logs and those of libraries to stderr, one event per line."""
    wanted = settings.log_format
    as_text = wanted == "text" or (wanted == "auto" and sys.stderr.isatty())
    shared = _shared_processors()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _renderer(as_text=as_text),
            ],
        )
    )
    _take_over(handler, settings.log_level)


_set_aside: set[tuple[str, object]] = set()


def set_aside(kind: str, id_: object, error: Exception) -> None:
    """Log an invalid stored row that is skipped, once per process and row.

    `paperboy doctor` finds the same rows by trying each of them.
    """
    if (kind, id_) not in _set_aside and len(_set_aside) < MOST_SET_ASIDE:
        _set_aside.add((kind, id_))
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        log.error("row.set_aside", kind=kind, id=id_, error=f"{type(error).__name__}: {reason}")


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact addresses, passwords and signed links in every value of an event."""
    return {
        key: value if key in MESSAGE_ID_KEYS else _redacted(value) for key, value in event.items()
    }


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return without_secrets(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_redacted(key): _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    return without_secrets(str(value))


def without_secrets(text: str) -> str:
    """Return `text` with addresses, passwords and signed links redacted."""
    text = LOGIN.sub("***@", text)
    text = LINK.sub(r"\1/[token]", text)
    text = TOKEN.sub("[token]", text)
    return ADDRESS.sub(_address, text)


def _address(found: re.Match[str]) -> str:
    # The rest of a URL's login, `smtp://***@host`, is redacted already.
    return found.group() if "***@" in found.group() else "[address]"


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
    ]


def _renderer(*, as_text: bool) -> Processor:
    if as_text:
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=False, default=str)


def _take_over(handler: logging.Handler, level: str) -> None:
    """Make `handler` the only log handler, so that no library logs an address."""
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    for name, least in NOISY.items():
        logging.getLogger(name).setLevel(max(least, root.level))
    logging.captureWarnings(capture=True)


class _Stderr(logging.StreamHandler[TextIO]):
    """A handler that writes to the current stderr, which a test or a fork may have replaced."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _stream: TextIO) -> None:
        """Ignore assignments: the stream is always the current stderr."""
