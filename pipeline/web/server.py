"""HTTP server (uvicorn) with limits on the number and duration of connections."""

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

POOL_TIMEOUT: Final = 5.0  # seconds to wait for a free database connection, then 503
GRACE = 5  # seconds to finish running responses on shutdown
HEADER_SECONDS: Final = 10.0  # to receive the headers, or the unread rest after a response
WRITE_SECONDS: Final = 60.0  # for the client to receive a response that is written
MOST_CONNECTIONS: Final = 500  # the limit of open files of a process is often 1,024
SWEEP_EVERY: Final = 10  # ticks of uvicorn, a tenth of a second each


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raise ServiceError with the reason if the port is unavailable."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ServiceError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port"
        ) from error
    # Connections inherit TCP_NODELAY: asyncio sets it only on a socket with an explicit protocol.
    # Without it each response on a keep-alive connection waits 40 ms for the client's ACK.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server(app: FastAPI) -> uvicorn.Server:
    """Return a server to run on a socket of `listen`; it stops on SIGTERM and Ctrl-C."""
    return BoundedServer(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            log_config=None,
            log_level="error",  # warnings are about malformed requests: a flood fills the disk
            access_log=False,  # it would record the pages each reader opens, and secrets in URLs
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
    )


class BoundedProtocol(H11Protocol):
    """HTTP connection that records since when it has been waiting for the client.

    uvicorn limits only the pause between two requests: a client that sends headers byte by byte
    (slowloris), or never reads the response, would hold a connection forever. The time to receive
    a body is limited in `web.request_limits`.
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
        """Update the timers; return True if `HEADER_SECONDS` or `WRITE_SECONDS` is exceeded.

        `now` is the time of `time.monotonic`.
        """
        if self.transport.get_write_buffer_size() == 0:
            self._writes_since = None
        elif self._writes_since is None:
            self._writes_since = now
        # Between two requests, uvicorn's own keep-alive timer applies.
        is_idle = self.timeout_keep_alive_task is not None and self._has_read_everything()
        if self.is_answering or is_idle:
            self._reads_since = None
        elif self._reads_since is None:
            self._reads_since = now
        return (self._reads_since is not None and now - self._reads_since > HEADER_SECONDS) or (
            self._writes_since is not None and now - self._writes_since > WRITE_SECONDS
        )

    def waits_since(self) -> float:
        """Return since when the connection waits for the client.

        Infinity while a response is in progress; 0 on an idle keep-alive connection.
        """
        if self.is_answering:
            return float("inf")
        return self._reads_since if self._reads_since is not None else 0.0

    def _has_read_everything(self) -> bool:
        return self.conn.their_state in {h11.IDLE, h11.DONE} and not self.conn.trailing_data[0]

    def _evict_one(self) -> None:
        """Abort the connection that has waited longest for its client, idle ones first."""
        others = cast("Iterable[BoundedProtocol]", self.connections)
        oldest = min(others, key=BoundedProtocol.waits_since)
        oldest.transport.abort()


class BoundedServer(uvicorn.Server):
    """uvicorn server that aborts overdue connections once a second."""

    async def on_tick(self, counter: int) -> bool:
        if counter % SWEEP_EVERY == 0:
            now = time.monotonic()
            for connection in list(cast("Iterable[Any]", self.server_state.connections)):
                if connection.is_overdue(now):
                    connection.transport.abort()
        return await super().on_tick(counter)
