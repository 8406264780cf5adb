"""A dispatcher that sends from a test's database to a sink, without rendering."""

from __future__ import annotations

from pipeline.dispatch import Dispatcher
from pipeline.settings import SMTPServer
from pipeline.smtp import SMTPTransport
from pipeline.smtp.session import SessionLimits
from tests.support.factories import NOW


def compose(delivery, _digest):
    return f"Subject: {delivery.dedupe_key}\r\n\r\nhello\r\n".encode()


def make_dispatcher(engine, sink, now=NOW, bounds=None, **changes):
    server = SMTPServer("127.0.0.1", sink.port, None, None, implicit_tls=False)
    defaults = {
        "engine": engine,
        "transport": SMTPTransport(server, bounds=bounds or SessionLimits()),
        "compose": compose,
        "load": lambda _conn, _deliveries: {},
        "sender": lambda _delivery: "paper@example.org",
        "connections": 3,
        "clock": lambda _conn: now,
    }
    return Dispatcher(**{**defaults, **changes})


def send(engine, sink, **changes):
    return make_dispatcher(engine, sink, **changes).drain(once=True)
