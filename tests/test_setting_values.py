"""A value is read as it was meant or refused, and a refusal repeats no part of it."""

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
    parse_login_url,
    parse_mailbox,
    parse_site_url,
)

PASSWORD = st.text(
    alphabet=string.ascii_letters + string.digits + "/#?@:!$&'()*+,;=~^|", min_size=1
)


# --- URLs with a login --------------------------------------------------------------------------


@given(PASSWORD)
def test_a_password_never_changes_the_host(password):
    """Whatever providers make; and every library reads the canonical form in the same way."""
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
        ("smtp://ada:p%ffx@h", "ada", "p%ffx", "h"),  # no UTF-8, so no escape
        ("smtp://ada:app pass word@h", "ada", "app pass word", "h"),
        ("redis://:pw@h/0", None, "pw", "h"),
        ("postgresql://u:p@h/db?application_name=a@b", "u", "p", "h"),
        ("postgresql://u:p@ss/w?x@h/db", "u", "p@ss/w?x", "h"),
        ("postgresql:///db?host=/run/postgresql", None, None, ""),
        ("smtp://u:p@[2001:DB8::1]:25", "u", "p", "2001:db8::1"),
        ("smtp://u:p@Bücher.example.", "u", "p", "xn--bcher-kva.example"),
    ],
)
def test_a_login_is_what_stands_before_the_last_at(url, username, password, host):
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
def test_a_refusal_shows_no_part_of_a_url(url):
    with pytest.raises(ValueError, match=r".") as raised:
        parse_login_url(url)

    assert "Zk9" not in str(raised.value)
    assert raised.value.__cause__ is None


# --- The address of the site --------------------------------------------------------------------


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
def test_the_site_is_the_origin_that_browsers_send(value, meant):
    """They leave out the default port and write a domain in punycode: else each POST is refused."""
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
def test_a_site_that_no_link_could_reach_is_refused(value):
    with pytest.raises(ValueError, match=r"must|has"):
        parse_site_url(value)


def test_names_for_examples_and_this_machine_are_known():
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
def test_a_name_is_what_stands_before_the_bracket(value, name):
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
def test_a_mailbox_that_could_be_read_in_two_ways_is_refused(value):
    with pytest.raises(ValueError, match=r"must|has"):
        parse_mailbox(value)


@given(st.text(max_size=60), st.sampled_from(["p@papers.example", "p.q+r@bücher.example"]))
def test_every_name_is_kept_or_refused(name, address):
    try:
        found = parse_mailbox(f"{name} <{address}>")
    except ValueError:
        return
    assert found[1] == address
    assert parseaddr(format_mailbox(*found)) == found
