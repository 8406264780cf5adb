"""Run the site in this process."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI

from pipeline.errors import ServiceError

GRACE = 5  # seconds for answers that are on their way when we are told to stop


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
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,  # it would tell who reads what, and the secrets in the addresses
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
    )
