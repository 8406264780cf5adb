"""HTTP connections restricted to public IP addresses and to a deadline (SSRF protection)."""

from __future__ import annotations

import ipaddress
import socket
import time
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from threading import Timer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.poolmanager import ProxyManager

from pipeline.settings import Settings

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The operator's HTTP proxy for https requests; it may have a private address."""

    url: str = field(repr=False)  # may contain a password
    exceptions: tuple[str, ...] = ()  # domains that are requested directly, with subdomains

    @classmethod
    def of(cls, settings: Settings) -> Proxy | None:
        """Return the proxy of HTTPS_PROXY and NO_PROXY; None if there is none."""
        url = settings.https_proxy
        return cls(url.get_secret_value(), settings.no_proxy) if url else None

    @property
    def place(self) -> tuple[str, int]:
        """Return its host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def serves(self, url: str) -> bool:
        """Return whether a URL is requested through it."""
        parts = urlsplit(url)
        domain = f".{(parts.hostname or '').lower()}"
        direct = (f".{name.lower().lstrip('*.')}" for name in self.exceptions)
        return parts.scheme == "https" and not any(
            name == "." or domain.endswith(name) for name in direct
        )


class ForbiddenAddressError(Exception):
    """Raised when a host name resolves to an address in a private network."""


class PublicAddressesOnly:
    """Open the connections of one request, and shut them all down at the deadline.

    With a socket timeout alone, a server could send one byte at a time for hours, in the headers
    too. `stopped` is True once the deadline has passed.
    """

    def __init__(self, *, allow_private: bool, deadline: float, proxy: Proxy | None = None) -> None:
        self.stopped = False
        self._proxy = proxy
        self._allow_private = allow_private
        self._brakes: list[socket.socket] = []
        self._timer = Timer(max(0.0, deadline - time.monotonic()), self._stop)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._timer.join()
        for brake in self._brakes:
            brake.close()

    def connect(self, connection: HTTPConnection) -> socket.socket:
        """Resolve the host and return a socket connected to the first of 4 addresses that answers.

        Raise ForbiddenAddressError if any resolved address is not public, and a urllib3 error if
        the name is unknown or no address answers. Connect to the validated address itself: a
        second DNS lookup could return another one (DNS rebinding).
        """
        host, timeout = connection.host, connection.timeout
        try:
            found = socket.getaddrinfo(host, connection.port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(host, connection, socket.gaierror(str(error))) from error
        if self._proxy is None or self._proxy.place != (host, connection.port):
            for *_, address in found:
                self._check(host, str(address[0]))
        failure: OSError = OSError("no address")
        for family, kind, protocol, _, address in found[:4]:
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(timeout if isinstance(timeout, (int, float)) else None)
                opened.connect(address)
            except OSError as error:
                opened.close()
                failure = error
                continue
            self._hold(opened)
            return opened
        if isinstance(failure, TimeoutError):
            raise ConnectTimeoutError(connection, f"{host} timed out") from failure
        raise NewConnectionError(connection, f"{host}: {failure}") from failure

    def check_target(self, host: str) -> None:
        """Raise ForbiddenAddressError if a host that a proxy would connect to is not public.

        The name may be unknown to this machine: then it must have a dot, and the proxy decides.
        """
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError):
            if "." not in host and not self._allow_private:
                raise ForbiddenAddressError(f"{host} leads into a private network") from None
            return
        for *_, address in found:
            self._check(host, str(address[0]))

    def _check(self, host: str, address: str) -> None:
        if not self._allow_private and not is_public(address):
            raise ForbiddenAddressError(f"{host} leads into a private network")

    def _hold(self, opened: socket.socket) -> None:
        # A duplicate descriptor: TLS takes over the socket object, but not the connection.
        self._brakes.append(opened.dup())
        if self.stopped:
            self._stop()

    def _stop(self) -> None:
        self.stopped = True
        for brake in self._brakes:
            try:
                brake.shutdown(socket.SHUT_RDWR)
            except OSError:  # already closed by the peer
                continue


def is_public(address: str) -> bool:
    """Return whether an address is globally reachable, including any IPv4 embedded in IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(part.is_global and not part.is_multicast for part in (parsed, *_wrapped(parsed)))


def _wrapped(address: IPv4Address | IPv6Address) -> tuple[IPv4Address, ...]:
    if isinstance(address, IPv4Address):
        return ()
    inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return tuple(part for part in inside if part is not None)


def guarded_session(
    guard: PublicAddressesOnly, ca_file: str | None = None, proxy: Proxy | None = None
) -> requests.Session:
    """Return a session that opens every connection through `guard` and ignores the environment.

    If `requests` used the machine's proxy settings or .netrc, it would bypass the guard. With
    `proxy` it tunnels https through it.
    """
    session = requests.Session()
    session.trust_env = False
    session.verify = ca_file or True
    if proxy is not None:
        session.proxies = {"https": proxy.url}
    for scheme in ("http://", "https://"):
        session.mount(scheme, _GuardedAdapter(guard))
    return session


class _GuardedAdapter(HTTPAdapter):
    def __init__(self, guard: PublicAddressesOnly) -> None:
        self._guard = guard
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(self._guard)

    def proxy_manager_for(self, proxy: str, **options: Any) -> ProxyManager:
        manager: ProxyManager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = _pools(self._guard)
        return manager


def _pools(guard: PublicAddressesOnly) -> dict[str, type[HTTPConnectionPool]]:
    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return guard.connect(self)

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return guard.connect(self)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}
