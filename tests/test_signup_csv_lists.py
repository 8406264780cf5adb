"""Lists of subscribers: layout and cells are parsed, without a database."""

from __future__ import annotations

import io
import json

import pytest

from pipeline.errors import PaperboyError
from pipeline.signup import csv_lists
from pipeline.signup.csv_lists import (
    OURS,
    SubscriberList,
    address_in,
    join_words,
    split_words,
)

ADA, BOB = "ada@example.org", "bob@example.org"


def listed(text: str | bytes, encoding: str = "utf-8") -> SubscriberList:
    octets = text.encode(encoding) if isinstance(text, str) else text
    return SubscriberList(io.BytesIO(octets), "list.csv")


def found(text: str | bytes, encoding: str = "utf-8") -> list[tuple[int, str, str]]:
    return [(one.line, one.cells.get("email", ""), one.problem) for one in listed(text, encoding)]


# --- Layout -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("email\nada@example.org\nbob@example.org\n", [2, 3]),
        ("\n\nemail\n\nada@example.org\nbob@example.org\n", [5, 6]),
        ("sep=;\nemail;x\nada@example.org;1\nbob@example.org;2\n", [3, 4]),
        ("sep=;\n\nName;Post\nAda;ada@example.org\nBob;bob@example.org\n", [4, 5]),
        ("sep=;\nada@example.org;1\nbob@example.org;2\n", [2, 3]),
        ("SEP=#\nemail#x\nada@example.org#1\nbob@example.org#2\n", [3, 4]),
        ("ada@example.org\nbob@example.org\n", [1, 2]),
        ("\nada@example.org\n\nbob@example.org\n", [2, 4]),
        ("The readers\n\nName,Post\nAda,ada@example.org\nBob,bob@example.org\n", [4, 5]),
        ('email,x\nada@example.org,"a\nb"\nbob@example.org,\n', [2, 4]),
    ],
)
def test_records_have_the_line_number_where_they_begin(text, lines):
    expected = [(line, email, "") for line, email in zip(lines, (ADA, BOB), strict=True)]

    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("Name,One,Two\nAda,ada@example.org,x\nBob,bob@example.org,eve@example.org\n", [ADA, BOB]),
        ("Name,One\nAda,x,ada@example.org\nBob,y,bob@example.org\n", [ADA, BOB]),  # no third name
        ("One,Two\nx\ny,ada@example.org\nz,bob@example.org\n", [ADA, BOB]),
        ("Email,Email 2\nada@example.org,\nbob@example.org,eve@example.org\n", [ADA, BOB]),
        ("E-mail,Other\n,ada@example.org\n", [""]),
        ("ada@example.org,bob@example.org\n", [ADA, BOB]),
        ("ada@example.org,Ada,eve@example.org\nBob,bob@example.org\n", [ADA, BOB]),
        ("ada@example.org\nnobody\n", [ADA, "nobody"]),
    ],
)
def test_address_column_is_detected(text, addresses):
    assert [email for _, email, _ in found(text)] == addresses


@pytest.mark.parametrize(
    ("header", "is_ours"),
    [
        (",".join(OURS), True),
        (",".join((*OURS, "folded", "my notes")), True),
        ("email,status,topics,hour,timezone,frequency", True),
        ("email,status,topics,hour,timezone,frequency,", True),
        ("email,status,topics,hour,timezone", False),
        ("email,status,topics,hour,timezone,frequency,city", False),
        ("email", False),
        ("bob@example.org", False),
        ("Name,Post", False),
    ],
)
def test_own_export_is_recognized_by_its_columns(header, is_ours):
    assert listed(f"{header}\nada@example.org\n").is_ours is is_ours


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("Max_Papers", "max_papers"),
        ("max papers", "max_papers"),
        ("Paused Until", "paused_until"),
        ("\ufeffJoined-At", "joined_at"),
        ("Opt-in time", "consent_asked_at"),
        ("\uff34\uff4f\uff50\uff49\uff43", "topics"),  # full-width letters
        ("city", None),
    ],
)
def test_column_names_are_recognized_by_their_letters(name, column):
    [record] = listed(f"email,{name}\nada@example.org,x\n")

    assert record.cells == {"email": ADA, **({column: "x"} if column else {})}


def test_extra_cells_are_rejected_unless_empty():
    text = "email,x\nada@example.org,1,,\nbob@example.org,1,,y\n"

    assert found(text) == [
        (2, ADA, ""),
        (3, BOB, "4 cells where the first line names 2"),
    ]


def test_file_without_addresses_raises_with_a_hint():
    with pytest.raises(PaperboyError, match=r"list\.csv: no column has email addresses; name"):
        listed("a,b\n1,2\n")
    with pytest.raises(PaperboyError, match=r"list\.csv: the file is empty"):
        listed("\n \n")


def test_list_can_be_iterated_twice():
    twice = listed("email\nada@example.org\n")

    assert list(twice) == list(twice)
    assert len(list(twice)) == 1


def test_header_must_be_in_the_first_fifty_lines():
    """If the header is not in the first fifty lines, PaperboyError is raised."""
    text = "x\n" * 49 + "email\nada@example.org\n"

    assert csv_lists.SAMPLE == 50
    assert found(text) == [(51, ADA, "")]
    with pytest.raises(PaperboyError, match="no column"):
        listed("x\n" * 50 + "email\nada@example.org\n")


# --- Text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_detected(encoding):
    text = "email,topics\nada@example.org,\xfc\u20ac\n"
    [record] = listed(text, encoding)

    assert record.cells == {"email": ADA, "topics": "\xfc\u20ac"}


def test_nul_characters_do_not_change_the_detected_encoding():
    head = b"email\nada@example.org\0\n"

    assert found(head) == [(2, ADA, "")]


def test_undefined_octets_are_kept_as_characters():
    [record] = listed(b"email,topics\nada@example.org,a\x81\x8d\x8f\x90\x9d\xe4b\n")

    assert record.cells["topics"] == "a\x81\x8d\x8f\x90\x9d\xe4b"


@pytest.mark.parametrize(("length", "problem"), [(0, ""), (1, "the line is too long")])
def test_line_length_is_limited(length, problem):
    row = "ada@example.org,"
    long = row + "x" * (100_000 - len(row) - 1 + length)

    records = list(listed(f"email,x\n{long}\nbob@example.org,\n"))

    assert records[0].problem == problem
    assert records[-1].cells["email"] == BOB
    assert len(records[0].raw[0]) <= 200


@pytest.mark.parametrize(("lines", "is_whole"), [(1_000, True), (1_001, False)])
def test_number_of_lines_per_record_is_limited(lines, is_whole):
    note = "\n".join(["x"] * lines)

    records = list(listed(f'email,x\nada@example.org,"{note}"\nbob@example.org,\n'))

    assert bool(records[0].problem) is not is_whole
    assert records[-1].cells.get("email") == BOB
    assert len(records) == (2 if is_whole else lines + 1)


def test_unclosed_quotation_mark_is_reported_with_its_line():
    assert found('email,x\nada@example.org,"a\nbob@example.org,b\n') == [
        (2, "", "a quotation mark opened here is not closed"),
        (3, BOB, ""),
    ]
    assert found('email,x\nbob@example.org,b\nada@example.org,"a') == [
        (2, BOB, ""),
        (3, ADA, ""),
    ]


# --- Cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "address"),
    [
        (" ada@example.org; ", ADA),
        ("'ada@example.org'", ADA),
        ("mailto:ada@example.org", ADA),
        ("Ada < mailto:ada@example.org >", ADA),
        ("\u200bada@example.org\xa0", ADA),
        ("Ada", "Ada"),
    ],
)
def test_address_is_extracted_from_its_cell(cell, address):
    assert address_in(cell) == address


@pytest.mark.parametrize(
    ("words", "cell"),
    [
        (["robots", "ti:a b (c)"], "robots; ti:a b (c)"),
        ([], ""),
        (["a;b"], '["a\\u003bb"]'),
        (["a, b"], '["a, b"]'),
        (["-a"], '["\\u002da"]'),
        (["a "], '["a "]'),
    ],
)
def test_words_are_quoted_only_when_required(words, cell):
    assert join_words(words) == cell
    assert split_words(cell) == tuple(words)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (" a ;; b\n c;", ("a", "b", "c")),
        ('say "x; y"; z', ('say "x; y"', "z")),
        ('"open; a', ('"open', "a")),
        (' ["a", "b"]', ("a", "b")),
        ("[a, b]", ("[a, b]",)),
        ("[1]", ("[1]",)),
        ('["a", 1]', ('["a", 1]',)),
    ],
)
def test_words_typed_by_users_are_split(cell, words):
    assert split_words(cell) == words


@pytest.mark.parametrize(
    ("attributes", "cells"),
    [
        ({"topics": ["a", "b;c"], "hour": 7}, {"topics": '["a", "b\\u003bc"]', "hour": "7"}),
        ({"topics": "a", "max_papers": True, "timezone": None}, {"topics": "a"}),
        ({"topics": ["a", 1], "city": "Paris"}, {}),
        (
            {"frequency": "weekly", "weekday": "friday"},
            {"frequency": "weekly", "weekday": "friday"},
        ),
        (["topics"], {}),
    ],
)
def test_attributes_become_cells_if_no_column_has_a_value(attributes, cells):
    row = json.dumps(attributes).replace('"', '""')
    [record] = listed(f'email,attributes,hour\nada@example.org,"{row}",\n')

    del record.cells["attributes"]
    assert record.cells == {"email": ADA, **cells}


def test_column_overrides_attribute_and_first_column_overrides_second():
    text = 'email,attributes,hour,Hour\nada@example.org,"{""hour"": 7}",8,9\nbob@example.org,{,,9\n'
    first, second = listed(text)

    assert first.cells["hour"] == "8"
    assert second.cells["hour"] == "9"


def test_apostrophe_before_a_formula_is_removed():
    [record] = listed("email,topics\nada@example.org,'=x\n")

    assert record.cells["topics"] == "=x"
