"""HTTP client for sources: User-Agent, rate limits, size and time limits, retry, Retry-After."""

from __future__ import annotations

import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from pipeline.errors import SourceError
from pipeline.sources import Validator
from pipeline.sources.public_addresses import (
    ForbiddenAddressError,
    Proxy,
    PublicAddressesOnly,
    guarded_session,
)

_MOST_HOPS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 64 * 1024
_LONGEST_WAIT = timedelta(days=2)  # cap on Retry-After: if it is longer, retry anyway


class Validators(Protocol):
    """Read access to the stored HTTP validators, by URL."""

    def get(self, url: str) -> Validator | None: ...


@dataclass(slots=True)
class MemoryValidators:
    """HTTP validators kept in memory for the life of the process."""

    validators: dict[str, Validator] = field(default_factory=dict)

    def get(self, url: str) -> Validator | None:
        return self.validators.get(url)

    def put(self, url: str, validator: Validator) -> None:
        self.validators[url] = validator


def no_waiting(limit: str) -> None:
    """Return at once, without rate limit; for a process that alone uses a source, and for tests."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """Limits of one request, in seconds and bytes; `overall` excludes DNS lookups."""

    connect: float = 10
    read: float = 30
    overall: float = 90
    wire: int = 16 * 1024 * 1024
    body: int = 24 * 1024 * 1024  # after decompression


@dataclass(frozen=True, slots=True)
class Response:
    url: str  # the requested URL, before redirects
    status: int  # 200, 304, or a status in the caller's `accept`
    body: bytes
    validator: Validator | None = None  # to be stored together with the parsed content

    @property
    def unchanged(self) -> bool:
        return self.status == 304


@dataclass(frozen=True, slots=True)
class Client:
    """An HTTP client that validates, throttles and retries GET requests.

    Before each request it calls `wait_turn` with the name of the rate limit; that call blocks until
    the request may be sent. Requests under one limit are serialised by a lock of this client, each
    on its own connection.
    """

    user_agent: str
    wait_turn: Callable[[str], None] = no_waiting
    validators: Validators = field(default_factory=MemoryValidators)
    bounds: DownloadLimits = DownloadLimits()
    allow_private: bool = False  # for tests on loopback
    ca_file: str | None = None  # replaces the public certificate authorities
    proxy: Proxy | None = None
    sleep: Callable[[float], None] = time.sleep
    pauses: tuple[float, ...] = (2, 8)  # seconds of backoff before the second and third attempt
    _turns: defaultdict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))

    def get(
        self,
        url: str,
        *,
        source: str,
        limit: str,
        now: datetime,
        headers: Mapping[str, str] | None = None,
        accept: frozenset[int] = frozenset(),
        conditional: bool = False,
        hosts: frozenset[str] | None = None,
    ) -> Response:
        """Send a GET and return the answer: 200, 304 (if `conditional`) or a status in `accept`.

        Redirects may lead to `hosts` only, or to any public host if it is None; `headers` are sent
        to the first host only. Retry twice, with backoff, if the connection fails before the
        deadline, or on a 5xx without Retry-After. Raise SourceError if no attempt succeeds; its
        `retry_at` is set if the server sent Retry-After.
        """
        validator = self.validators.get(url) if conditional else None
        request = _Request(
            source, now, {**(headers or {}), **_conditions(validator)}, accept, hosts
        )
        with self._turns[limit]:
            for pause in (*self.pauses, None):
                self.wait_turn(limit)
                try:
                    return self._follow(url, request)
                except _AgainSoonError as error:
                    if pause is None:
                        raise error.final from error
                    self.sleep(pause)
        raise AssertionError("unreachable")

    def _follow(self, url: str, request: _Request) -> Response:
        deadline = time.monotonic() + self.bounds.overall
        here, headers = url, request.headers
        for _ in range(_MOST_HOPS + 1):
            request.check_hop(url, here)
            status, target, body, validator = self._once(here, headers, request, deadline)
            if target is None:
                return Response(url, status, body, validator)
            here = urljoin(here, target)
            if urlsplit(here).netloc != urlsplit(url).netloc:
                headers = {}  # never send a token to another host
        raise SourceError(request.source, f"more than {_MOST_HOPS} redirects from {url}")

    def _once(
        self, url: str, headers: dict[str, str], request: _Request, deadline: float
    ) -> tuple[int, str | None, bytes, Validator | None]:
        proxy = self.proxy if self.proxy and self.proxy.serves(url) else None
        guard = PublicAddressesOnly(
            allow_private=self.allow_private, deadline=deadline, proxy=proxy
        )
        sent = {
            "User-Agent": self.user_agent,
            "Accept-Encoding": "gzip, deflate",
            "Connection": "close",
            **headers,
        }
        try:
            if proxy is not None:
                guard.check_target(urlsplit(url).hostname or "")
            with (
                guard,
                guarded_session(guard, self.ca_file, proxy) as session,
                session.get(
                    url,
                    headers=sent,
                    timeout=(self.bounds.connect, self.bounds.read),
                    allow_redirects=False,
                    stream=True,
                ) as response,
            ):
                judged = self._judge(response, request)
        except ForbiddenAddressError as error:
            raise SourceError(request.source, str(error), retryable=False) from error
        except ValueError as error:  # requests parses the Location even when it does not follow it
            why = f"{url} redirects to something that is no URL: {error}"
            raise SourceError(request.source, why[:300], retryable=False) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if not guard.stopped:
                again = SourceError(request.source, _reason(error, url))
                raise _AgainSoonError(again) from error
        if guard.stopped:  # no error is raised if the response has no Content-Length
            why = f"took longer than {self.bounds.overall:g} s: {url}"
            raise SourceError(request.source, why)
        return judged

    def _judge(
        self, response: requests.Response, request: _Request
    ) -> tuple[int, str | None, bytes, Validator | None]:
        status = response.status_code
        if status in _REDIRECTS:
            target = response.headers.get("Location")
            if not target:
                raise SourceError(request.source, f"a redirect to nowhere from {response.url}")
            return status, target, b"", None
        if status == 304 and request.is_conditional:
            return status, None, b"", None
        if status == 200 or status in request.accept:
            body = b"".join(_body(response, self.bounds, request.source))
            return status, None, body, _validator(response) if status == 200 else None
        raise _refusal(response, request)


@dataclass(frozen=True, slots=True)
class _Request:
    """The parts of a request that stay the same across redirects."""

    source: str
    now: datetime
    headers: dict[str, str]
    accept: frozenset[int]
    hosts: frozenset[str] | None

    @property
    def is_conditional(self) -> bool:
        return "If-None-Match" in self.headers or "If-Modified-Since" in self.headers

    def check_hop(self, first: str, here: str) -> None:
        """Raise SourceError if a redirect is invalid, leaves https or leads to another host."""
        try:
            origin, hop = urlsplit(first), urlsplit(here)
            host = hop.hostname
        except ValueError:
            host = None
        if not host or hop.scheme not in {"http", "https"} or "@" in hop.netloc:
            raise SourceError(self.source, f"a redirect to {here[:200]!r}", retryable=False)
        if origin.scheme == "https" and hop.scheme != "https":
            raise SourceError(self.source, f"a redirect away from https: {here}", retryable=False)
        if self.hosts is not None and host != origin.hostname and host not in self.hosts:
            raise SourceError(self.source, f"a redirect to another host: {host}", retryable=False)


class _AgainSoonError(Exception):
    """Raised to retry within the same fetch; `final` is raised if the last attempt fails."""

    def __init__(self, final: SourceError) -> None:
        super().__init__(final.message)
        self.final = final


def user_agent(version: str, site_url: str, contact: str | None) -> str:
    """Return the User-Agent, with site and contact so that a source can write before blocking."""
    mail = f"; mailto:{contact}" if contact else ""
    return f"Paperboy/{version} (+{site_url}{mail})"


def _conditions(validator: Validator | None) -> dict[str, str]:
    if validator is None:
        return {}
    headers = {"If-None-Match": validator.etag, "If-Modified-Since": validator.last_modified}
    return {name: value for name, value in headers.items() if value}


def _validator(response: requests.Response) -> Validator | None:
    etag, last_modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    values = [v if v and len(v) <= 500 and v.isprintable() else None for v in (etag, last_modified)]
    return Validator(*values) if any(values) else None


def _refusal(response: requests.Response, request: _Request) -> Exception:
    status = response.status_code
    retry_at = _retry_at(response.headers.get("Retry-After"), request.now)
    error = SourceError(
        request.source,
        f"answered {status} {(response.reason or '')[:50]}".rstrip(),
        retryable=status >= 500 or status in {408, 425, 429},
        retry_at=retry_at,
    )
    return _AgainSoonError(error) if status >= 500 and retry_at is None else error


def _retry_at(text: str | None, now: datetime) -> datetime | None:
    """Parse Retry-After (RFC 9110, section 10.2.3): seconds or a date, at most 2 days ahead."""
    if not text:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return now + min(timedelta(seconds=int(text[:9])), _LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return max(now, min(moment, now + _LONGEST_WAIT))


def _body(response: requests.Response, bounds: DownloadLimits, source: str) -> Iterator[bytes]:
    """Yield the decompressed body in chunks.

    Raise SourceError if it exceeds `bounds`, is truncated, or has a broken or unknown encoding.
    """
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"identity", "", "gzip", "x-gzip", "deflate"}:
        raise SourceError(source, f"an answer in the unknown encoding {encoding[:50]!r}")
    unpack = None if encoding in {"identity", ""} else zlib.decompressobj(wbits=47)
    wire = size = 0
    while chunk := response.raw.read(_CHUNK, decode_content=False):
        wire += len(chunk)
        try:
            part = unpack.decompress(chunk, bounds.body - size + 1) if unpack else chunk
        except zlib.error as error:
            raise SourceError(source, "an answer whose compression is broken") from error
        size += len(part)
        if wire > bounds.wire or size > bounds.body:
            largest = bounds.wire if wire > bounds.wire else bounds.body
            why = f"an answer of more than {largest / 2**20:g} MB"
            raise SourceError(source, why, retryable=False)
        yield part
    if unpack and wire and not unpack.eof:
        raise SourceError(source, "an answer that breaks off")


def _reason(error: Exception, url: str) -> str:
    host = urlsplit(url).hostname
    match error:
        case requests.ConnectTimeout():
            return f"{host} could not be reached in time"
        case requests.Timeout():
            return f"{host} stopped answering"
        case requests.exceptions.ProxyError():
            return f"{host} could not be reached through HTTPS_PROXY"
        case requests.exceptions.SSLError():
            return f"{host} has no valid certificate"
        case requests.ConnectionError() if "NameResolution" in str(error):
            return f"{host} is not known to the name servers"
        case requests.ConnectionError():
            return f"{host} could not be reached"
        case _:
            return f"{host} broke off its answer"
