"""The HTTP client, against a server on loopback that misbehaves in every known way."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.errors import SettingsError, SourceError
from pipeline.sources import Validator
from pipeline.sources.client import Client, DownloadLimits, user_agent
from pipeline.sources.public_addresses import Proxy, is_public
from pipeline.storage.database import open_engine
from pipeline.web.papers.thumbnails import Thumbnails
from pipeline.web.subscribe.author_lookup import AuthorLookup
from tests.support.source_server import Reply, Site, serve

NOW = datetime(2026, 7, 31, 6, tzinfo=UTC)
QUICK = DownloadLimits(connect=2, read=2, overall=4, wire=200_000, body=1_000_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


@pytest.fixture
def client() -> Client:
    return Client(
        user_agent("1.2.3", "https://papers.example.org", "ops@example.org"),
        bounds=QUICK,
        allow_private=True,
        sleep=lambda seconds: None,
    )


def get(client: Client, url: str, **choices):
    return client.get(url, source="arxiv", limit="arxiv", now=NOW, **choices)


def test_user_agent_has_version_site_and_contact(site, client):
    site.replies["/"] = Reply(b"hello")

    assert get(client, f"{site.url}/").body == b"hello"

    headers = site.requests[0][1]
    expected = "Paperboy/1.2.3 (+https://papers.example.org; mailto:ops@example.org)"
    assert headers["User-Agent"] == expected
    assert "br" not in headers["Accept-Encoding"]


def test_wait_turn_is_called_before_each_request_and_retry(site, client):
    turns: list[str] = []
    site.replies["/"] = [Reply(status=503), Reply(status=500), Reply(b"at last")]

    answer = get(replace(client, wait_turn=turns.append), f"{site.url}/")

    assert answer.body == b"at last"
    assert turns == ["arxiv", "arxiv", "arxiv"]


def test_requests_of_one_limit_do_not_overlap(site, client):
    at_once, most = 0, 0
    lock = threading.Lock()

    def slowly(handler):
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.05)
        with lock:
            at_once -= 1
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nok")

    site.replies["/"] = slowly
    threads = [threading.Thread(target=get, args=(client, f"{site.url}/")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(site.requests), most) == (4, 1)


def test_validator_is_returned_and_not_stored(site, client):
    """The caller stores it after the papers; until then the full response is returned."""
    site.replies["/"] = Reply(b"x", headers={"ETag": '"7"', "Last-Modified": "yesterday"})

    first = get(client, f"{site.url}/", conditional=True)
    get(client, f"{site.url}/", conditional=True)

    assert first.validator == Validator('"7"', "yesterday")
    assert "If-None-Match" not in site.requests[1][1]


def test_stored_validator_gets_an_unchanged_response(site, client):
    def reply(handler):
        known = handler.headers["If-None-Match"] == '"7"'
        handler.send_response(304 if known else 200)
        handler.end_headers()

    site.replies["/"] = reply
    client.validators.put(f"{site.url}/", Validator('"7"'))

    answer = get(client, f"{site.url}/", conditional=True)

    assert answer.unchanged
    assert (answer.body, answer.validator) == (b"", None)


def test_304_without_a_condition_raises(site, client):
    site.replies["/"] = Reply(status=304)

    with pytest.raises(SourceError, match="304"):
        get(client, f"{site.url}/")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("120", NOW + timedelta(minutes=2)),
        ("Fri, 31 Jul 2026 07:00:00 GMT", NOW + timedelta(hours=1)),
        ("Fri, 31 Jul 2020 07:00:00 GMT", NOW),
        ("99999999999999999999", NOW + timedelta(days=2)),
        ("soon", None),
    ],
)
def test_retry_after_on_429_sets_retry_at(site, client, header, expected):
    site.replies["/"] = Reply(status=429, headers={"Retry-After": header})

    with pytest.raises(SourceError) as raised:
        get(client, f"{site.url}/")

    assert raised.value.retryable
    assert raised.value.retry_at == expected
    assert len(site.requests) == 1


def test_503_with_retry_after_is_not_retried_immediately(site, client):
    site.replies["/"] = Reply(status=503, headers={"Retry-After": "60"})

    with pytest.raises(SourceError) as raised:
        get(client, f"{site.url}/")

    assert raised.value.retry_at == NOW + timedelta(minutes=1)
    assert len(site.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_refused_request_is_not_retried(site, client, status):
    site.replies["/"] = Reply(status=status)

    with pytest.raises(SourceError, match=str(status)) as raised:
        get(client, f"{site.url}/")

    assert not raised.value.retryable
    assert len(site.requests) == 1


def test_status_accepted_by_the_caller_is_returned(site, client):
    site.replies["/"] = Reply(b"why", status=400)

    assert get(client, f"{site.url}/", accept=frozenset({400})).body == b"why"


def drip(handler, site: Site, head: bytes, drop: bytes) -> None:
    handler.wfile.write(head)
    while not site.stopping.wait(0.05):
        handler.wfile.write(drop)


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\nX-Slow: ",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n",
    ],
    ids=["in the headers", "in the body", "in a body of known length"],
)
def test_dripping_response_times_out_at_the_overall_deadline(site, client, head):
    """Each byte arrives in time, so only a deadline over the whole response helps."""
    site.replies["/"] = lambda handler: drip(handler, site, head, b"x")
    client = replace(client, bounds=replace(QUICK, overall=0.6))

    started = time.monotonic()
    with pytest.raises(SourceError, match=r"took longer than 0\.6 s") as raised:
        get(client, f"{site.url}/")

    assert time.monotonic() - started < 2
    assert raised.value.retryable


def test_silent_server_times_out_after_the_read_timeout(site, client):
    site.replies["/"] = lambda handler: site.stopping.wait(5)
    client = replace(client, bounds=replace(QUICK, read=0.2), pauses=())

    with pytest.raises(SourceError, match="stopped answering"):
        get(client, f"{site.url}/")


def test_an_endless_body_is_cut_off(site, client):
    head = b"HTTP/1.0 200 OK\r\n\r\n"
    site.replies["/"] = lambda handler: [
        handler.wfile.write(head),
        *(handler.wfile.write(b"x" * 65536) for _ in range(10_000)),
    ]

    with pytest.raises(SourceError, match="more than"):
        get(client, f"{site.url}/")


def test_a_gzip_bomb_is_cut_off(site, client):
    bomb = gzip.compress(b"0" * 50_000_000)
    assert len(bomb) < QUICK.wire
    site.replies["/"] = Reply(bomb, headers={"Content-Encoding": "gzip"})

    with pytest.raises(SourceError, match=r"more than 0\.95"):
        get(client, f"{site.url}/")


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_responses_are_decompressed(site, client, pack):
    encoding = "gzip" if pack is gzip.compress else "deflate"
    site.replies["/"] = Reply(pack(b"papers" * 1000), headers={"Content-Encoding": encoding})

    assert get(client, f"{site.url}/").body == b"papers" * 1000


@pytest.mark.parametrize(
    ("body", "encoding", "why"),
    [
        (b"not gzip at all", "gzip", "compression is broken"),
        (gzip.compress(b"papers" * 10_000, mtime=0)[:60], "gzip", "breaks off"),
        (b"x", "br", "unknown encoding"),
    ],
)
def test_broken_compression_raises_a_clear_error(site, client, body, encoding, why):
    site.replies["/"] = Reply(body, headers={"Content-Encoding": encoding})

    with pytest.raises(SourceError, match=why):
        get(client, f"{site.url}/")


def test_response_shorter_than_content_length_raises(site, client):
    head = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nonly this"
    site.replies["/"] = lambda handler: handler.wfile.write(head)

    with pytest.raises(SourceError, match="broke off"):
        get(client, f"{site.url}/")


def test_redirects_to_another_host_drop_the_authorization_header(site, client):
    with serve() as other:
        site.replies["/a"] = Reply(status=301, headers={"Location": "/b"})
        site.replies["/b"] = Reply(status=302, headers={"Location": f"{other.url}/c"})
        other.replies["/c"] = Reply(b"here")

        answer = get(client, f"{site.url}/a", headers={"Authorization": "Bearer secret"})

        assert answer.body == b"here"
        assert answer.url == f"{site.url}/a"
        assert site.requests[1][1]["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.requests[0][1]


@pytest.mark.parametrize(
    "target",
    [
        "ftp://example.org/x",
        "file:///etc/passwd",
        "http://user:pass@example.org/",
        "",
        "http://[::1",
        "http://[",
        "//[",
        "http://[x]/",
        "http://a:b/",
        "http://.example.org/",
        "http://a.example:99999/",
    ],
)
def test_redirect_to_a_non_web_target_is_rejected(site, client, target):
    site.replies["/"] = Reply(status=302, headers={"Location": target})

    with pytest.raises(SourceError, match="redirect"):
        get(client, f"{site.url}/")


def test_redirect_to_a_host_not_on_the_list_is_rejected(site, client):
    site.replies["/"] = Reply(status=302, headers={"Location": "http://localhost:1/"})

    with pytest.raises(SourceError, match="another host: localhost"):
        get(client, f"{site.url}/", hosts=frozenset({"arxiv.org"}))


def test_redirect_loop_raises_after_five_redirects(site, client):
    site.replies["/"] = Reply(status=302, headers={"Location": "/"})

    with pytest.raises(SourceError, match="more than 5 redirects"):
        get(client, f"{site.url}/")
    assert len(site.requests) == 6


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"])
def test_private_addresses_are_never_connected_to(site, client, host):
    port = site.url.rpartition(":")[2]
    client = replace(client, allow_private=False)

    with pytest.raises(SourceError, match="private network") as raised:
        get(client, f"http://{host}:{port}/")

    assert not raised.value.retryable
    assert site.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:220:1::1", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:a00:1::", False),
        ("64:ff9b::a00:1", False),
        ("nonsense", False),
    ],
)
def test_is_public_classifies_addresses(address, public):
    assert is_public(address) is public


@pytest.fixture
def certificate(tmp_path) -> Path:
    """Return the path of a self-signed certificate for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kept = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = tmp_path / "loopback.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + kept)
    return path


def test_tls_certificates_are_verified(certificate, client):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serve(context) as site:
        site.replies["/"] = Reply(b"in private")

        with pytest.raises(SourceError, match="no valid certificate"):
            get(replace(client, pauses=()), f"{site.url}/")
        trusting = replace(client, ca_file=str(certificate))

        assert get(trusting, f"{site.url}/").body == b"in private"


def test_redirect_from_https_to_http_is_rejected(certificate, client, site):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serve(context) as secure:
        secure.replies["/"] = Reply(status=302, headers={"Location": f"{site.url}/"})

        with pytest.raises(SourceError, match="away from https"):
            get(replace(client, ca_file=str(certificate)), f"{secure.url}/")
    assert site.requests == []


def test_unreachable_server_raises_a_one_line_error(client):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(SourceError, match=r"^arxiv: 127\.0\.0\.1 could not be reached$") as raised:
        get(client, f"http://127.0.0.1:{port}/")
    assert raised.value.retryable


# --- Through a proxy ----------------------------------------------------------------------------


@dataclass
class TunnelServer:
    """An HTTP proxy on loopback that connects every CONNECT request to `target`, or refuses it."""

    target: tuple[str, int]
    reply: str = "200 Connected"
    requests: list[str] = field(default_factory=list)
    port: int = 0

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        with client:
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.requests.append(head.decode())
            client.sendall(f"HTTP/1.1 {self.reply}\r\n\r\n".encode())
            if not self.reply.startswith("200"):
                return
            with socket.create_connection(self.target) as server:
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while octets := source.recv(65_536):
            target.sendall(octets)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def open_tunnel(target: Site, **script: str) -> Iterator[TunnelServer]:
    server = TunnelServer(("127.0.0.1", int(target.url.rpartition(":")[2])), **script)  # type: ignore[arg-type]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def secure_site(certificate) -> Iterator[Site]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serve(context) as site:
        site.replies["/"] = Reply(b"through a tunnel")
        yield site


def through(port: int, client: Client, certificate: Path, **changes) -> Client:
    proxy = Proxy(f"http://ada:canary@127.0.0.1:{port}", changes.pop("exceptions", ()))
    return replace(client, proxy=proxy, ca_file=str(certificate), pauses=(), **changes)


def test_https_goes_through_the_proxy_and_http_does_not(secure_site, site, client, certificate):
    site.replies["/"] = Reply(b"directly")
    with open_tunnel(secure_site) as tunnel:
        proxied = through(tunnel.port, client, certificate)

        assert get(proxied, f"{secure_site.url}/").body == b"through a tunnel"
        assert get(proxied, f"{site.url}/").body == b"directly"

    (request,) = tunnel.requests
    assert request.startswith(f"CONNECT {secure_site.url.removeprefix('https://')} HTTP/1.")
    assert "Proxy-Authorization: Basic YWRhOmNhbmFyeQ==" in request


def test_exceptions_are_requested_directly(secure_site, client, certificate):
    with open_tunnel(secure_site) as tunnel:
        proxied = through(tunnel.port, client, certificate, exceptions=("127.0.0.1",))

        assert get(proxied, f"{secure_site.url}/").body == b"through a tunnel"

    assert tunnel.requests == []


@pytest.mark.parametrize(
    ("url", "is_served"),
    [
        ("https://arxiv.org/x", True),
        ("http://arxiv.org/x", False),
        ("https://papers.lab.example", False),
        ("https://lab.example", False),
        ("https://otherlab.example", True),
    ],
)
def test_no_proxy_names_domains_with_their_subdomains(url, is_served):
    assert Proxy("http://127.0.0.1:3128", (".lab.example",)).serves(url) is is_served
    assert not Proxy("http://127.0.0.1:3128", ("*",)).serves(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "localhost", "intranet"])
def test_a_proxy_is_not_asked_for_private_addresses(secure_site, client, certificate, host):
    with open_tunnel(secure_site) as tunnel:
        proxied = through(tunnel.port, client, certificate, allow_private=False)

        with pytest.raises(SourceError, match="private network"):
            get(proxied, f"https://{host}/")

    assert tunnel.requests == []


def test_a_public_host_is_read_through_a_proxy_with_a_private_address(
    secure_site, client, certificate
):
    """The name is unknown to this machine: the proxy resolves it, and TLS still checks it."""
    with open_tunnel(secure_site) as tunnel:
        proxied = through(tunnel.port, client, certificate, allow_private=False)

        with pytest.raises(SourceError, match="no valid certificate"):
            get(proxied, "https://papers.invalid/")

    assert tunnel.requests[0].startswith("CONNECT papers.invalid:443 ")


def test_a_refusing_or_missing_proxy_is_named_without_its_password(
    secure_site, client, certificate
):
    with open_tunnel(secure_site, reply="407 Proxy Authentication Required") as tunnel:
        proxied = through(tunnel.port, client, certificate)
        with pytest.raises(SourceError, match="through HTTPS_PROXY") as refused:
            get(proxied, f"{secure_site.url}/")
    with pytest.raises(SourceError, match="through HTTPS_PROXY") as missing:
        get(proxied, f"{secure_site.url}/")

    assert "canary" not in f"{refused.value} {missing.value} {proxied!r}"


@pytest.mark.parametrize(
    "url", ["https://proxy:3128", "http://proxy", "proxy:3128", "http://p:1/x"]
)
def test_a_malformed_proxy_is_rejected_by_name(url):
    with pytest.raises(SettingsError, match="HTTPS_PROXY: must look like http://"):
        settings.load(None, https_proxy=url)


def test_every_client_uses_the_proxy(tmp_path):
    loaded = settings.load(
        None,
        database_url=f"sqlite:///{tmp_path / 'p.db'}",
        https_proxy="http://127.0.0.1:3128",
        thumbnails=True,
    )
    services = Services(loaded, open_engine(loaded.database_url))

    thumbnails = Thumbnails.of(loaded)
    lookup = AuthorLookup.of(loaded, services.engine)

    assert thumbnails is not None
    for client in services._client, thumbnails.client, lookup.client:
        assert client is not None
        assert client.proxy == Proxy("http://127.0.0.1:3128")
    services.engine.dispose()
