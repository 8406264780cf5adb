"""Setting values are parsed as intended or refused; the error repeats no part of a value."""

from __future__ import annotations

import string
from email.utils import parseaddr
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from pipeline.setting_values import (
    format_mailbox,
    is_loopback,
    is_reserved,
    parse_host,
    parse_login_url,
    parse_mailbox,
    parse_place,
    parse_site_url,
)

PASSWORD = st.text(
    alphabet=string.ascii_letters + string.digits + "/#?@:!$&'()*+,;=~^|", min_size=1
)


# --- URLs with a login --------------------------------------------------------------------------


@given(PASSWORD)
def test_password_characters_never_change_the_parsed_host(password):
    """For any password; every library parses the canonical form in the same way."""
    for scheme, tail in (("smtp", ""), ("redis", "/0"), ("postgresql", "/papers")):
        url = parse_login_url(f"{scheme}://ada:{password}@mail.example:587{tail}")

        assert (url.username, url.password) == ("ada", password)
        assert (url.host, url.port, url.path) == ("mail.example", 587, tail)
        parts = urlsplit(str(url))
        assert (parts.hostname, parts.port) == ("mail.example", 587)
        assert unquote(parts.password or "") == password
        assert parse_login_url(str(url)) == url
    assert make_url(str(url)).password == password


@pytest.mark.parametrize(
    ("url", "username", "password", "host"),
    [
        ("smtp://ada%40x.example:p%3A%2Fw@h", "ada@x.example", "p:/w", "h"),
        ("smtp://ada@x.example:pw@h", "ada@x.example", "pw", "h"),
        ("smtp://ada:50%off@h", "ada", "50%off", "h"),
        ("smtp://ada:p%ffx@h", "ada", "p%ffx", "h"),  # not UTF-8, so not an escape
        ("smtp://ada:app pass word@h", "ada", "app pass word", "h"),
        ("redis://:pw@h/0", None, "pw", "h"),
        ("postgresql://u:p@h/db?application_name=a@b", "u", "p", "h"),
        ("postgresql://u:p@ss/w?x@h/db", "u", "p@ss/w?x", "h"),
        ("postgresql:///db?host=/run/postgresql", None, None, ""),
        ("smtp://u:p@[2001:DB8::1]:25", "u", "p", "2001:db8::1"),
        ("smtp://u:p@Bücher.example.", "u", "p", "xn--bcher-kva.example"),
    ],
)
def test_login_ends_at_the_last_at_sign(url, username, password, host):
    parsed = parse_login_url(url)

    assert (parsed.username, parsed.password, parsed.host) == (username, password, host)
    assert "password" not in repr(parsed)


@pytest.mark.parametrize(
    "url",
    ["ada:Zk9qw@mail.example", "smtp://ada:Zk9/qw", "smtp://ada:Zk9qw@mail.example:port",
     "smtp://ada:Zk9qw@mail.example:99999", "smtp://ada:Zk9qw@h#x", "smtp://ada:Zk9\nqw@h",
     "smtp://ada:Zk9qw@[::1", "smtp://ada:Zk9qw@a..b", "smtp://ada:Zk9qw@-a.example",
     "smtp://ada:Zk9qw@h/x y"],
)  # fmt: skip
def test_url_errors_do_not_reveal_the_url(url):
    with pytest.raises(ValueError, match=r".") as raised:
        parse_login_url(url)

    assert "Zk9" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "smtp://h",
        "smtp://:@h",
        "smtp://ada@h:25",
        "smtp://ada:@h",
        "smtp://:pw@h",
        "smtp://ada:pw@[2001:db8::1]:465/x?y=z",
        "redis://h/0?timeout=5",
        "postgresql:///db?host=/run",
    ],
)
def test_plain_urls_are_unchanged_by_parsing(url):
    assert str(parse_login_url(url)) == url
    assert parse_login_url(f"  {url}\n") == parse_login_url(url)


@pytest.mark.parametrize(
    ("place", "port"),
    [("h", None), ("h:", None), ("h:1", 1), ("h:65535", 65_535), ("h:00025", 25), ("[::1]:25", 25)],
)
def test_ports_from_1_to_65535_are_accepted(place, port):
    assert parse_place(place)[1] == port


@pytest.mark.parametrize("place", ["h:0", "h:65536", "h:000025", "h:99999", "h:00000", "h:123456"])
def test_ports_outside_1_to_65535_are_rejected(place):
    with pytest.raises(ValueError, match="between 1 and 65535"):
        parse_place(place)


LABEL = "a" * 63


def test_domains_are_limited_to_63_per_label_and_253_characters():
    longest = ".".join([LABEL] * 3 + ["b" * 61])

    assert parse_host(longest) == parse_host(f"{longest.upper()}.") == longest
    for too_long in (f"{longest}b", f"{LABEL}a.example", f"{LABEL}..example", "a-.example"):
        with pytest.raises(ValueError, match="no domain name"):
            parse_host(too_long)


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("[1.2.3.4]", "no IPv6 address"),
        ("[fe80::1%eth0]", "only this machine"),
        ("b\xfc cher.example", "no domain name"),
    ],
)
def test_host_errors_state_the_reason(host, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        parse_host(host)

    assert raised.value.__cause__ is None


# --- The site URL -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (" https://Papers.Example/ ", "https://papers.example"),
        ("HTTPS://papers.example:443//", "https://papers.example"),
        ("http://papers.example:80", "http://papers.example"),
        ("https://papers.example:8443", "https://papers.example:8443"),
        ("https://papers.example.:", "https://papers.example"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[2001:DB8:0::1]:8000/", "http://[2001:db8:0:0::1]:8000"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_site_url_is_normalized_to_the_browser_origin(value, meant):
    """Browsers omit the default port and send punycode; if origins differ, POSTs are refused."""
    assert parse_site_url(value) == meant.replace("db8:0:0::1", "db8::1")


@pytest.mark.parametrize(
    "value",
    ["papers.example", "ftp://papers.example", "https:/papers.example", "https://",
     "https://papers.example/x", "https://papers.example?", "https://papers.example/?x=1",
     "https://papers.example#", "https://a:b@papers.example", "https://papers .example",
     "https://papers.example:0", "https://papers.example:65536", "https://papers.example:http",
     "https://pa\tpers.example", "https://pa\npers.example", "https://papers.example\\x",
     "https://*.example", "https://a..b", "https://127.1", "https://0x7f.1", "https://[::1",
     "https://2130706433", "https://[fe80::1%25eth0]", "https://https://papers.example",
     "https://pap%20ers.example"],
)  # fmt: skip
def test_unreachable_site_urls_are_rejected(value):
    with pytest.raises(ValueError, match=r"must|has"):
        parse_site_url(value)


def test_loopback_and_reserved_names_are_recognized():
    assert all(map(is_loopback, ["localhost", "papers.localhost", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "", "localhost.org", "10.0.0.1"]))
    assert all(map(is_reserved, ["papers.example", "example.org", "a.b.example.com", "x.test"]))
    assert not any(map(is_reserved, ["notexample.org", "example.org.uk", "test.org", "10.0.0.1"]))


# --- Mailboxes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("p@papers.example", ""),
        ("<p@papers.example>", ""),
        ("P@pers <p@papers.example>", "P@pers"),
        ("Papers, Lab <p@papers.example>", "Papers, Lab"),
        ("Papers: daily; (beta) <p@papers.example>", "Papers: daily; (beta)"),
        ("  Papers\u00a0 today<p@papers.example> ", "Papers today"),
        ('"Papers, \\"the\\" daily" <p@papers.example>', 'Papers, "the" daily'),
        ("Back\\slash <p@papers.example>", "Back\\slash"),
        ("O'Neil [papers] <p@papers.example>", "O'Neil [papers]"),
        ("Bücher, Lab <p@papers.example>", "Bücher, Lab"),
        ("=?utf-8?q?B=C3=BCcher=2C_Lab?= <p@papers.example>", "Bücher, Lab"),
    ],
)
def test_mailbox_display_name_precedes_the_angle_bracket(value, name):
    found = parse_mailbox(value)

    assert found == (name, "p@papers.example")
    assert parseaddr(format_mailbox(*found)) == found, "as all others read it"


@pytest.mark.parametrize(
    "value",
    ["", "Papers", "p@", "@papers.example", "a@x.example, b@x.example", "a@x.example b@x.example",
     "A <a@x.example>, B <b@x.example>", "p@x.example (Papers)", "Papers <p@x.example",
     "Papers p@x.example", "group: a@x.example;", "mailto:p@x.example", "pöst@x.example",
     "p..q@x.example", "p@x..example", "p@x.example.", "p@[192.0.2.1]", "p@192.0.2.1",
     '"a b"@x.example', 'Pap"ers <p@x.example>', "=?utf-8?b?zz <p@x.example>",
     "=?klingon?q?x?= <p@x.example>", "P <p@x.example>\r\nBcc: b@x.example",
     "\u202eP <p@x.example>", "x" * 65 + "@x.example", "x" * 201 + " <p@x.example>",
     "p@a_b.example"],
)  # fmt: skip
def test_ambiguous_mailboxes_are_rejected(value):
    with pytest.raises(ValueError, match=r"must|has"):
        parse_mailbox(value)


def test_mailbox_accepts_name_of_200_and_local_part_of_64_characters():
    assert parse_mailbox("x" * 200 + " <p@x.example>") == ("x" * 200, "p@x.example")
    assert parse_mailbox("x" * 64 + "@x.example") == ("", "x" * 64 + "@x.example")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("p", "one address"),
        ("a@b@x.example", "one address"),
        ("a@x.example, b@x.example", "one address"),
        ("A <a@x.example> <b@x.example>", "one address"),
        ("p..q@x.example", "part before the @"),
        ("p@.x.example", "an invalid domain"),
        ("p@[::1]", "an invalid domain"),
        ("p@a..b", "an invalid domain"),
        ("p@192.0.2.1", "an invalid domain"),
        ('Pap"ers <p@x.example>', "quotation marks"),
        ("=?utf-8?b?zz <p@x.example>", "encoded word"),
        ("=?utf-8?q?=3D=3Fx?= <p@x.example>", "encoded word"),
        ("=?klingon?q?x?= <p@x.example>", "encoded word"),
        ("\u202eP <p@x.example>", "cannot be printed"),
        ("x" * 201 + " <p@x.example>", "more than 200 characters"),
        ("P\n<p@x.example>", "one line"),
    ],
)
def test_mailbox_errors_state_the_reason(value, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        parse_mailbox(value)

    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("", "p@x.example"),
        ("Papers Daily!", "Papers Daily! <p@x.example>"),
        ("Papers, Daily", '"Papers, Daily" <p@x.example>'),
        ("B\xfccher", '"B\xfccher" <p@x.example>'),
        ('a"b\\c', '"a\\"b\\\\c" <p@x.example>'),
        ("\U0001f469\u200d\U0001f52c", '"\U0001f469\u200d\U0001f52c" <p@x.example>'),
    ],
)
def test_display_names_are_quoted_when_required(name, written):
    assert format_mailbox(name, "p@x.example") == written
    assert parse_mailbox(written) == (name, "p@x.example")


@given(st.text(max_size=60), st.sampled_from(["p@papers.example", "p.q+r@bücher.example"]))
def test_any_display_name_round_trips_or_is_rejected(name, address):
    try:
        found = parse_mailbox(f"{name} <{address}>")
    except ValueError:
        return
    assert found[1] == address
    assert parseaddr(format_mailbox(*found)) == found
