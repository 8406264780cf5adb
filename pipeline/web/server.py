"""Run the site in this process, with bounds on connections: their number, and their time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from typing import Any, Final, cast

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.errors import ServiceError

POOL_TIMEOUT: Final = 5.0  # seconds to wait for a free connection to the database, then 503
GRACE = 5  # seconds for answers that are on their way when we are told to stop
HEADER_SECONDS: Final = 10.0  # for the headers of a request, and for what follows an answer
WRITE_SECONDS: Final = 60.0  # for a visitor to take an answer that is written
MOST_CONNECTIONS: Final = 500  # a process may often open 1,024 files
SWEEP_EVERY: Final = 10  # ticks of uvicorn, a tenth of a second each


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ServiceError that says whether the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServiceError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port"
        ) from error
    # What connections inherit: asyncio sets it only on a socket that names its protocol, and
    # without it each answer on a kept connection waits 40 ms for the reader's acknowledgement.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server(app: FastAPI) -> uvicorn.Server:
    """A server that is run on a socket of `listen`; it ends on SIGTERM and Ctrl-C."""
    return BoundedServer(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            log_level="error",  # warnings are about malformed requests: a flood fills the disk
            access_log=False,  # it would tell who reads what, and the secrets in the addresses
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
    )


class BoundedProtocol(H11Protocol):
    """A connection that knows since when it has waited for its visitor.

    uvicorn bounds only the pause between two requests: a visitor who sends headers letter by letter
    (slowloris), or never reads the answer, would hold a connection for ever. The time of a body is
    bounded in `web.bounds`.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._reads_since: float | None = time.monotonic()
        self._writes_since: float | None = None
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > MOST_CONNECTIONS:
            self._evict_one()

    @property
    def is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def is_overdue(self, now: float) -> bool:
        """Update what the connection waits for; True where it has waited too long."""
        if self.transport.get_write_buffer_size() == 0:
            self._writes_since = None
        elif self._writes_since is None:
            self._writes_since = now
        # Between two requests uvicorn's own timer for kept connections runs.
        is_idle = self.timeout_keep_alive_task is not None and self._has_read_everything()
        if self.is_answering or is_idle:
            self._reads_since = None
        elif self._reads_since is None:
            self._reads_since = now
        return (self._reads_since is not None and now - self._reads_since > HEADER_SECONDS) or (
            self._writes_since is not None and now - self._writes_since > WRITE_SECONDS
        )

    def waits_since(self) -> float:
        """Return since when the visitor is waited for; infinity while an answer is made."""
        if self.is_answering:
            return float("inf")
        return self._reads_since if self._reads_since is not None else 0.0

    def _has_read_everything(self) -> bool:
        return self.conn.their_state in {h11.IDLE, h11.DONE} and not self.conn.trailing_data[0]

    def _evict_one(self) -> None:
        """Close the connection that has waited longest for its visitor."""
        others = cast("Iterable[BoundedProtocol]", self.connections)
        oldest = min(others, key=BoundedProtocol.waits_since)
        oldest.transport.abort()


class BoundedServer(uvicorn.Server):
    """A server that closes connections whose visitors keep it waiting."""

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_EVERY == 0:
            now = time.monotonic()
            for connection in list(cast("Iterable[Any]", self.server_state.connections)):
                if connection.is_overdue(now):
                    connection.transport.abort()
        return await super().on_tick(counter)
