"""Parsing of a mail (headers, parts, encodings, HTML), and the limits of each."""

from __future__ import annotations

import codecs
from base64 import b64encode

import pytest

from pipeline.feedback.bounces import mime
from pipeline.feedback.bounces.mime import Headers, Part, parse_mail, read_headers


def parts_of(text: str) -> list[Part]:
    return list(parse_mail(text.encode()).parts)


# --- Headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "fields"),
    [
        ("A: 1\nB:2", (("a", "1"), ("b", "2"))),
        ("A: 1\n more\n\tand more\nB: 2", (("a", "1 more and more"), ("b", "2"))),
        (" first\nA: 1", (("a", "1"),)),
        ("no field\n: no name\nTwo words: 3\nA : 1", (("a", "1"),)),
        ("A: x: y", (("a", "x: y"),)),
        ("A: =?utf-8?q?J=C3=B6rg_A?= =?utf-8?B?w7Y=?= <a@b>", (("a", "Jörg Aö <a@b>"),)),
        ("A: =?utf-8*de?q?J=C3=B6rg?= x", (("a", "Jörg x"),)),
        ("A: =?utf-8?x?no?=", (("a", "=?utf-8?x?no?="),)),
        ("", ()),
    ],
)
def test_read_headers_parses_folded_and_encoded_fields(head, fields):
    assert read_headers(head.encode()).fields == fields


def test_headers_get_returns_the_first_field_and_all_returns_every_one():
    headers = Headers((("a", "1"), ("b", "2"), ("a", "3")))

    assert (headers.get("a"), headers.get("c"), headers.all("a")) == ("1", "", ["1", "3"])
    assert ("b" in headers, "c" in headers) == (True, False)


def test_headers_end_at_an_empty_line_and_may_be_missing():
    mail = parse_mail(b"\r\n\nA: 1\r\n\r\nBody\0 one\r\r\ntwo\rthree")
    assert mail.headers.fields == (("a", "1"),)
    assert mail.parts == (Part("text/plain", b"Body one\ntwo\nthree"),)
    assert parse_mail(b"A: 1").parts == (Part("text/plain", b""),)
    assert parse_mail(b"").parts == (Part("text/plain", b""),)


# --- Parts --------------------------------------------------------------------------------------

MIXED = 'Content-Type: multipart/mixed; boundary="b"\n\n'


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("before\n--b\n\none\n--b  \n\ntwo\n--b--\nafter", [(b"one\n", False), (b"two\n", False)]),
        ("--b\n\none\n--b\n\ntwo", [(b"one\n", False), (b"two", True)]),
        ("--b\n\none\n--bb\n--b--", [(b"one\n--bb\n", False)]),
        ("--b\n\none\n x--b\n--b--\n--b\n\nlate", [(b"one\n x--b\n", False)]),
        ("nothing", [(b"nothing", False)]),
        ("--b--", [(b"--b--", False)]),
    ],
)
def test_multipart_is_split_at_boundaries_and_cut_parts_are_marked(body, found):
    parts = parts_of(MIXED + body)

    assert [(part.octets, part.cut) for part in parts] == found
    assert {part.type for part in parts} == {"text/plain"}


def test_part_has_its_content_type_and_charset():
    said = 'Content-Type: Text/HTML; Charset*=latin1; x="y;z"; name=n\n\n\xe9'
    (part,) = parse_mail(said.encode("latin-1")).parts
    assert (part.type, part.charset, part.text) == ("text/html", "latin1", "é")
    assert parts_of("Content-Type: nonsense\n\nx")[0].type == "text/plain"
    assert parts_of("Content-Type: multipart/mixed\n\nx")[0].type == "text/plain"
    assert parts_of("Content-Type: message/rfc822\n\nx")[0].type == "message/rfc822"


def nested(depth: int) -> str:
    text = "Content-Type: text/html\n\nleaf"
    for level in range(depth):
        text = (
            f"Content-Type: multipart/mixed; boundary=b{level}\n\n--b{level}\n{text}\n--b{level}--"
        )
    return text


def test_at_most_sixty_parts_and_six_levels_are_read():
    assert [part.type for part in parts_of(nested(6))] == ["text/html"]
    assert [part.type for part in parts_of(nested(7))] == ["text/plain"]
    for count, read in ((60, 60), (61, 60), (90, 60)):
        parts = parts_of(MIXED + "".join(f"--b\n\n{n}\n" for n in range(count)) + "--b--")
        assert [part.octets for part in parts] == [b"%d\n" % n for n in range(read)]


@pytest.mark.parametrize(
    ("encoding", "body", "octets"),
    [
        ("base64", "aGVsbG8=", b"hello"),
        ("BASE64", "aGVs\nbG8", b"hello"),
        ("base64", "aGVs*bG8=\n\nA footer", b"hello"),
        ("base64", "aGVsb", b"hel"),
        ("base64", "aGVsbA", b"hell"),
        ("base64", "a", b""),
        ("quoted-printable", "J=C3=B6rg=\n A_B", "Jörg A_B".encode()),
        ("7bit", "J=C3=B6rg", b"J=C3=B6rg"),
    ],
)
def test_transfer_encoding_is_decoded_as_far_as_possible(encoding, body, octets):
    assert parts_of(f"Content-Transfer-Encoding: {encoding}\n\n{body}")[0].octets == octets


# --- Words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("a<br>b<p class=x>c</p>d", "a\nb\nc\nd"),
        ("a <b>bold</b>  \t word", "a bold word"),
        ("a&nbsp;&lt;b&gt;", "a <b>"),
        ("a <!-- x --> 1 < 2", "a 1 < 2"),
        ("<STYLE>x</style>a<script>y</script>b", "a b"),
        ("<style><script></style>a</script>b", "a b"),
        ("a<head>never closed", "a never closed"),
    ],
)
def test_words_of_html_are_the_visible_text(page, words):
    assert Part("text/html", page.encode()).words == words
    assert Part("text/plain", page.encode()).words == page


@pytest.mark.parametrize(("length", "pages"), [(0, True), (20, True), (21, False)])
def test_html_part_is_read_if_the_plain_text_is_almost_empty(length, pages):
    html = "--b\nContent-Type: text/html\n\n<p>shown\n"
    plain = f"--b\n\n{'x' * length}\n"
    returned = "--b\nContent-Type: message/rfc822\n\nreturned\n--b\n\nbehind\n"

    written = parse_mail((MIXED + html + plain + returned + "--b--").encode()).written

    assert written.split() == ["x" * length] * bool(length) + ["shown"] * pages


def test_parser_limits_the_size_of_texts_headers_and_parts():
    long = parse_mail(b"A: 1\n\n" + b"x" * 100_001)
    assert len(long.written) == 100_000
    page = Part("text/html", b"x" * 199_999 + b"yz")
    assert page.words == "x" * 199_999 + "y"
    head = read_headers(b"A: " + b"x" * 65_533 + b"y")
    assert head.get("a") == "x" * 65_533
    assert len(parse_mail(b"A: 1\n\n" + b"x" * 2_000_000).parts[0].octets) == (1 << 20) - 6


# --- Characters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "charset", "text"),
    [
        ("é".encode(), "", "é"),
        ("é".encode("latin-1"), "", "é"),
        ("é".encode(), "us-ascii", "é"),
        ("é".encode("latin-1"), "us-ascii", "é"),
        ("é".encode("latin-1"), "utf-8", "\ufffd"),
        ("日本".encode("iso2022_jp") + b"\xff", "", "日本\ufffd"),
        ("日本".encode("shift_jis"), "x-sjis", "日本"),
        (b"\xff\xfe", "unknown-8bit", "\ufffd\ufffd"),
        (b"\x81", "windows-1252", "\ufffd"),
        ("שלום".encode("iso8859_8"), "ISO-8859-8-I", "שלום"),
        ("Привет".encode("koi8_r"), "KOI8-R", "Привет"),
        ("中".encode("gb18030"), "GBK", "中"),
        (b"a" + "é".encode(), "x" * 50, "aé"),
    ],
)
def test_text_is_decoded_by_its_charset_or_a_fallback(octets, charset, text):
    assert mime._text(octets, charset) == text


@pytest.mark.parametrize("part", [part for part in range(1, 17) if part != 12])
def test_each_iso_8859_charset_is_decoded_as_declared(part):
    octets = bytes([0xA1, 0xC1, 0xE1])

    assert mime._text(octets, f"ISO-8859-{part}") == octets.decode(f"iso8859_{part}", "replace")


def test_every_known_charset_is_a_python_codec():
    for codec in mime._CHARSETS.values():
        assert codecs.lookup(codec).name


def test_long_base64_part_is_decoded_completely():
    text = "Größe " * 5_000
    head = "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n"

    assert parts_of(head + b64encode(text.encode()).decode())[0].text == text
