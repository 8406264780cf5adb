"""Parse settings with ambiguous syntax: URLs with a login, the site's address, mailboxes.

Each function returns a canonical form that all libraries parse in the same way, or raises
ValueError. The message repeats no part of the value, which may contain a password.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import quote, unquote

import idna

LONGEST_NAME: Final = 200  # characters in a display name, which must fit one header line

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_PLACE = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]@:/?#\\]*)(?::(?P<port>[0-9]*))?", re.DOTALL)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_QUERY = re.compile(r"[A-Za-z_][\w.-]*=")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


# --- URLs with a login --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LoginURL:
    """A URL such as `smtp://user:password@host:port/path?query`, with its login decoded."""

    scheme: str
    username: str | None
    password: str | None = field(repr=False)
    host: str  # lower case, a domain in punycode; an IPv6 address without brackets; may be empty
    port: int | None
    path: str  # as given, with its leading slash
    query: str  # as given, with its question mark

    def __str__(self) -> str:
        """Return the URL with its login percent-encoded, which RFC 3986 parses unambiguously."""
        login = quote(self.username or "", safe="")
        if self.password is not None:
            login += f":{quote(self.password, safe='')}"
        has_login = self.username is not None or self.password is not None
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        at = f"{login}@" if has_login else ""
        return f"{self.scheme}://{at}{host}{port}{self.path}{self.query}"


def parse_login_url(url: str) -> LoginURL:
    """Parse a URL; its password may contain `/ # ? @ : %` unescaped, as providers print it.

    The login ends at the last @ before the host. Percent escapes are decoded only if the whole part
    decodes to UTF-8. Raises ValueError.
    """
    url = url.strip()
    parts = _URL.fullmatch(url)
    if not parts or _CONTROL.search(url):
        raise ValueError("is not a URL")
    login, rest = _split_login(parts["rest"])
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    host, port = parse_place(rest[:end])
    path, mark, query = rest[end:].partition("?")
    if "#" in rest[end:] or re.search(r"\s", rest[end:]):
        raise ValueError("has a stray character behind the host")
    username, password = None, None
    if login is not None:
        user, colon, secret = login.partition(":")
        username, password = _decoded(user) or None, _decoded(secret) if colon else None
    return LoginURL(parts["scheme"].lower(), username, password, host, port, path, mark + query)


def _split_login(rest: str) -> tuple[str | None, str]:
    """Return the login, or None if there is none, and the rest after its @."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    behind = rest[len(authority) :]
    tail = behind.partition("?")
    is_query_only = "@" not in tail[0] and "#" not in behind and _QUERY.match(tail[2])
    if "@" in authority and ("@" not in behind or is_query_only):
        login, _, place = authority.rpartition("@")
        return login, place + behind
    login, at, place = rest.rpartition("@")
    return (login, place) if at else (None, rest)


def parse_place(place: str) -> tuple[str, int | None]:
    """Split `host:port`; the port is None if it is not given. Raises ValueError."""
    found = _PLACE.fullmatch(place)
    if not found:
        raise ValueError("has no readable host and port")
    port = int(found["port"]) if found["port"] and len(found["port"]) <= 5 else None
    if found["port"] and not (port and port <= 65535):
        raise ValueError("has a port that is not between 1 and 65535")
    return (parse_host(found["host"]) if found["host"] else ""), port


def parse_host(host: str) -> str:
    """Return the host in lower case and punycode; an IPv6 address without brackets.

    Raises ValueError if it is no domain name or address, or has an IPv6 zone.
    """
    if host.startswith("["):
        try:
            address = IPv6Address(host[1:-1])
        except ValueError:
            raise ValueError("has no IPv6 address in its brackets") from None
        if address.scope_id is not None:
            raise ValueError("has an address that only this machine knows (a zone)")
        return str(address)
    host = host.removesuffix(".").lower()
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            raise ValueError("has a host that is no domain name") from None
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError("has a host that is no domain name")
    return host


def _decoded(part: str) -> str:
    try:
        return unquote(part, errors="strict")
    except UnicodeDecodeError:
        return part  # not an escape: a percent sign of the password


# --- The address of the site --------------------------------------------------------------------

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def parse_site_url(value: str) -> str:
    """Return the origin of the site, in the form that browsers send: the prefix of every link.

    Raises ValueError.
    """
    value = value.strip()
    parts = _URL.fullmatch(value)
    if not parts or parts["scheme"].lower() not in _DEFAULT_PORTS or _CONTROL.search(value):
        raise ValueError("must look like https://papers.example.org")
    scheme, rest = parts["scheme"].lower(), parts["rest"].rstrip("/")
    for mark, name in (("#", "fragment"), ("?", "query"), ("@", "user name"), ("/", "path")):
        if mark in rest:
            advice = "; give the site a host name of its own" if name == "path" else ""
            raise ValueError(
                f"must have no {name}: only the scheme and the host, and maybe a port{advice}"
            )
    host, port = parse_place(rest)
    if not host:
        raise ValueError("must look like https://papers.example.org")
    if re.fullmatch(r"(.*\.)?([0-9]+|0x[0-9a-f]*)", host) and not _is_address(host):
        # Browsers parse 127.1 and 0x7f.1 as addresses, and would connect to another host.
        raise ValueError("has a host that is neither an address nor a domain name")
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port in {None, _DEFAULT_PORTS[scheme]} else f":{port}")


_RESERVED: Final = ("example", "test", "invalid", "localhost")  # RFC 2606 and RFC 6761
_RESERVED_DOMAINS: Final = ("example.com", "example.net", "example.org")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def is_reserved(host: str) -> bool:
    """Return whether a domain is reserved for examples and tests: no site is reachable there."""
    below = f".{host}"
    return host.rpartition(".")[2] in _RESERVED or below.endswith(
        tuple(f".{domain}" for domain in _RESERVED_DOMAINS)
    )


# --- Mailboxes ----------------------------------------------------------------------------------


def parse_mailbox(value: str) -> tuple[str, str]:
    """Split `Name <local@domain>`, or a bare address, into name and address.

    The name is the text before the angle bracket, quoted or not; it may contain commas, colons and
    parentheses. RFC 2047 encoded words in it are decoded. Raises ValueError if it is malformed or
    has more than one address.
    """
    if _CONTROL.search(value.strip()):
        raise ValueError("must be one line: Name <name@example.org>")
    value = " ".join(value.split())
    if not value.endswith(">"):
        return "", _address(value)
    name, _, address = value[:-1].rpartition("<")
    return _display_name(name.strip()), _address(address.strip())


def format_mailbox(name: str, address: str) -> str:
    """Return a mailbox that `email.utils.parseaddr` splits as `parse_mailbox` does."""
    if not name:
        return address
    if re.fullmatch(r"[\w!#$%&'*+/=?^`{|}~ -]+", name, re.ASCII):
        return f"{name} <{address}>"
    escaped = re.sub(r'(["\\])', r"\\\1", name)
    return f'"{escaped}" <{address}>'


def _display_name(name: str) -> str:
    if quoted := _QUOTED.fullmatch(name):
        name = re.sub(r"\\(.)", r"\1", quoted[1])
    elif '"' in name:
        raise ValueError("must have quotation marks around the whole name, or none")
    elif "<" in name or ">" in name:
        raise ValueError("must be one address: Name <name@example.org>")
    if "=?" in name:
        with suppress(HeaderParseError, LookupError, ValueError):
            name = " ".join(str(make_header(decode_header(name))).split())
        if "=?" in name:
            raise ValueError("has an encoded word in its name that cannot be read")
    if not name.replace("\u200d", "").isprintable():  # zero-width joiner, a part of many emoji
        raise ValueError("has a character in its name that cannot be printed")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"has a name of more than {LONGEST_NAME} characters")
    return name


def _address(address: str) -> str:
    local, at, domain = address.rpartition("@")
    if not at or "@" in local or not domain or not local:
        raise ValueError("must be one address: Name <name@example.org>")
    if len(local) > 64 or not _LOCAL.fullmatch(local):
        raise ValueError("has an invalid part before the @")
    try:
        host = parse_host(domain)
    except ValueError:
        host = "_"
    if domain != domain.strip(".") or "_" in host or not re.search("[a-z]", host) or ":" in host:
        raise ValueError("has an invalid domain")
    return f"{local}@{domain}"
