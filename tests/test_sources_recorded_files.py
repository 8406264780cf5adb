"""Recorded responses are recognised by their content; if one cannot be read, the error says why."""

from __future__ import annotations

import gzip
import json
import re
import resource
import subprocess
import sys
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from pipeline.domain import Sighting
from pipeline.errors import SourceError
from pipeline.sources.recorded_files import read_file
from tests.support.source_answers import (
    api,
    api_entry,
    api_error,
    feed,
    feed_entry,
    listed,
    listing,
    oai,
    oai_record,
    rss,
    rss_item,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HF_ENTRY = {"paper": {"id": "2503.02130", "title": "A paper", "upvotes": 3}, "numComments": 1}
SCRAPED = {"id": "2606.18371", "title": "T", "summary": "S", "authors": ["A"], "abs": "x"}
HARVESTED = {"id": "2506.11017", "title": "T", "abstract": "S", "first_seen": "2025-06-16"}
FROM_PAGE = {"title": "T", "abstract": "S", "author_count": 5, "published_on": "2024-04-27"}
BIORXIV = {
    "title": "On {beta}-catenin",
    "authors": "Vanini, J.; de Farias, C. B.",
    "doi": "10.64898/2026.08.21.746295",
    "date": "2026-09-07",
    "version": "3",
    "category": "cancer biology",
    "abstract": "O_SCPCAPAbstractC_SCPCAP We do things.",
    "funder": "NA",
    "published": "NA",
    "server": "bioRxiv",
}
DETAILS = {"messages": [{"status": "ok", "count": 1, "total": "1"}], "collection": [BIORXIV]}
PUBS = {
    "messages": [{"status": "ok"}],
    "collection": [
        {
            "preprint_doi": "10.1101/2025.09.17.676679",
            "published_doi": "10.1091/mbc.E25-09-0454",
            "preprint_platform": "medRxiv",
            "preprint_title": "A preprint",
            "preprint_authors": "Zhao, Y.; Li, W.",
            "preprint_category": "NA",
            "preprint_date": "2025-09-20",
            "preprint_abstract": "NA",
        }
    ],
}


@pytest.fixture
def recorded(tmp_path):
    """Return a function that writes a file and returns its readings."""

    def record(content: object, name: str = "answer", source: str | None = None):
        path = tmp_path / name
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        path.write_bytes(raw)
        return read_file(path, source)

    return record


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def packed(content: bytes) -> bytes:
    """Compress without a timestamp: the bytes are part of a test's name."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "source", "count"),
    [
        ([HF_ENTRY, HF_ENTRY], "huggingface", 2),
        (lines(HF_ENTRY, HF_ENTRY), "huggingface", 2),
        (api(api_entry()), "arxiv", 1),
        (api(), "arxiv", 0),
        ({"url": "u", "status_code": 200, "body": api(api_entry()).decode()}, "arxiv", 1),
        ({"url": "u", "status_code": 200, "body": json.dumps([HF_ENTRY])}, "huggingface", 1),
        (feed(feed_entry()), "arxiv", 1),
        (rss(rss_item()), "arxiv", 1),
        (oai(oai_record(), oai_record("2607.00001")), "arxiv", 2),
        (listing(listed()), "arxiv", 1),
        (lines(SCRAPED, SCRAPED), "arxiv", 2),
        (lines(HARVESTED), "arxiv", 1),
        ([HARVESTED], "arxiv", 1),
        (packed(lines(HARVESTED, HARVESTED)), "arxiv", 2),
        (packed(api(api_entry())), "arxiv", 1),
        (lines(FROM_PAGE), "huggingface", 1),
        (DETAILS, "biorxiv", 1),
        (PUBS, "medrxiv", 1),
        (b"\xef\xbb\xbf" + api(api_entry()), "arxiv", 1),
        (api(api_entry()).decode().replace("UTF-8", "UTF-16").encode("utf-16"), "arxiv", 1),
        (json.dumps([HF_ENTRY]).encode("utf-16"), "huggingface", 1),
    ],
)
def test_every_recorded_format_is_recognized(recorded, content, source, count):
    ((name, reading),) = recorded(content)

    assert (name, len(reading.sightings)) == (source, count)
    assert reading.skipped == ()
    assert reading.cursor is None


def test_announcement_date_is_read_from_the_file_name(recorded):
    ((_, scraped),) = recorded(lines(SCRAPED), "2026-06-19.jsonl")
    ((_, listed_that_day),) = recorded([HF_ENTRY], "2024-05-27.json")
    ((_, unknown),) = recorded(lines(SCRAPED), "2026-06-19_2026-06-20.jsonl")

    assert scraped.sightings[0].announced_on == date(2026, 6, 19)
    assert listed_that_day.sightings[0].announced_on == date(2024, 5, 27)
    assert unknown.sightings[0].announced_on is None


def test_paper_from_the_web_page_has_an_author_count_and_no_id(recorded):
    ((name, reading),) = recorded(lines({**FROM_PAGE, "comments": 0}))
    ((told, _),) = recorded(lines(FROM_PAGE), source="elsewhere")

    (sighting,) = reading.sightings
    assert (name, told) == ("huggingface", "elsewhere")
    assert (sighting.source_id, sighting.arxiv_id) == ("", None)
    assert (sighting.authors, sighting.author_count, sighting.comments) == ((), 5, 0)
    assert sighting.published_at == datetime(2024, 4, 27, tzinfo=UTC)
    assert sighting.announced_on is None


def test_biorxiv_na_values_and_semicolon_separated_authors_are_parsed(recorded):
    ((_, reading),) = recorded(DETAILS)
    ((_, published),) = recorded(PUBS)

    (sighting,) = reading.sightings
    assert sighting.title == "On β-catenin"
    assert sighting.abstract == "Abstract We do things."
    assert sighting.authors == ("Vanini, J.", "de Farias, C. B.")
    assert (sighting.doi, sighting.version) == ("10.64898/2026.08.21.746295", 3)
    assert sighting.links.abstract == "https://doi.org/10.64898/2026.08.21.746295"
    assert sighting.announced_on == date(2026, 9, 7)
    assert published.sightings[0].doi == "10.1101/2025.09.17.676679"
    assert (published.sightings[0].abstract, published.sightings[0].keywords) == ("", ())


def test_file_with_several_sources_returns_one_reading_for_each(recorded):
    readings = recorded(lines(HF_ENTRY, SCRAPED, HF_ENTRY, BIORXIV))

    assert [(n, len(r.sightings)) for n, r in readings] == [
        ("huggingface", 2),
        ("arxiv", 1),
        ("biorxiv", 1),
    ]


def test_numeric_ids_keep_their_trailing_zeros(recorded):
    ((_, reading),) = recorded(b'{"id": 2503.02130, "title": "Zero", "abstract": ""}\n')

    assert reading.sightings[0].source_id == "2503.02130"


def test_invalid_lines_are_skipped_with_one_message_each(recorded):
    content = lines(SCRAPED) + b"{broken\n\n[1]\n" + lines({"id": "2606.00001"}, SCRAPED)

    ((_, reading),) = recorded(content)

    assert len(reading.sightings) == 2
    assert [line.partition(":")[0] for line in reading.skipped] == ["line 2", "entry 2", "entry 3"]
    assert all("\n" not in line for line in reading.skipped)


def test_skipped_line_messages_are_limited_to_twenty_and_a_count(recorded):
    ((_, reading),) = recorded(lines(SCRAPED) + b"nonsense\n" * 1500)

    assert len(reading.skipped) == 21
    assert reading.skipped[-1] == "and 1,480 more"


def test_skipped_entry_messages_are_limited_to_twenty_and_a_count(recorded):
    bad = [feed_entry("no id", title="x")] * 30

    ((_, reading),) = recorded(feed(feed_entry(), *bad))

    assert len(reading.sightings) == 1
    assert reading.skipped[0] == "entry 2: has no arXiv id (oai:arXiv.org:no id)"
    assert reading.skipped[20:] == ("and 10 more",)


def test_truncated_feed_returns_the_entries_before_the_cut(recorded):
    """If an entry is cut inside its id, it is left out: half an id is another id."""
    whole = rss(rss_item("2607.00001v1"), rss_item("2607.00002v1"))

    ((name, reading),) = recorded(whole[: whole.rindex(b".28624</link>")])

    assert name == "arxiv"
    assert [s.arxiv_id for s in reading.sightings] == ["2607.00001"]
    assert "not well-formed" in reading.skipped[-1]


def test_entry_truncated_in_its_abstract_is_kept(recorded):
    """Its fields are correct up to the cut, and half an abstract is better than no paper."""
    whole = rss(rss_item("2607.28624v1", title="Cut short"))

    ((_, reading),) = recorded(whole[: whole.index(b" things.")])

    (sighting,) = reading.sightings
    assert (sighting.arxiv_id, sighting.title) == ("2607.28624", "Cut short")
    assert sighting.abstract == "We do"
    assert "not well-formed" in reading.skipped[-1]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00", "is binary"),
        (b"Dear reader, nothing here", "of no kind that is known"),
        (b"<html><body>Hello</body></html>", "web page of no kind"),
        (b"<svg></svg>", "unknown kind, <svg>"),
        (b"{broken", "is not JSON"),
        (b"[]", "no source; use --source"),
        (b'{"title": "T", "abstract": "S"}', "no source; use --source"),
        (b"[1, 2, 3]", "no paper that can be read; entry 1: is not a paper"),
        (b'{"error": "Invalid date"}', "is an error: Invalid date"),
        (api_error(), "incorrect id format for abc"),
        (json.dumps({"status_code": 400, "body": api_error().decode()}).encode(), "status 400"),
        (json.dumps({"status_code": 200, "body": ""}).encode(), "empty answer with status 200"),
        (b'{"messages": [{"status": "no interval"}]}', "without papers: no interval"),
        (rss(rss_item()).partition(b"28624</link>")[0], "no whole entry before that"),
        (packed(lines(SCRAPED) * 100)[:-9], "broken gzip"),
        (b"\x1f\x8bnot gzip", "broken gzip"),
        (packed(b""), "is empty"),
        (b'<?xml version="1.0" encoding="punycode"?><a>\xff</a>', "unknown encoding, punycode"),
    ],
)
def test_unreadable_file_raises_a_one_line_error(recorded, content, why):
    with pytest.raises(SourceError) as raised:
        recorded(content, "answer.txt")

    assert why in str(raised.value)
    assert "answer.txt" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not raised.value.retryable


def test_source_argument_is_used_if_the_content_is_ambiguous(recorded):
    ((name, reading),) = recorded(b"[]", source="huggingface")
    ((told, _),) = recorded({"title": "T", "abstract": "S"}, source="elsewhere")

    assert (name, reading.sightings, told) == ("huggingface", (), "elsewhere")


def test_missing_file_and_folder_raise_clear_errors(tmp_path):
    with pytest.raises(SourceError, match="does not exist"):
        read_file(tmp_path / "nothing.json")
    with pytest.raises(SourceError, match="is a folder"):
        read_file(tmp_path)


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("latin-1", "UTF-8"),
        ("latin-1", "ISO-8859-1"),
        ("utf-8", "ISO-8859-1"),
        ("utf-8", "UTF-16"),
        ("utf-16", "UTF-8"),
        ("cp1252", ""),
    ],
)
def test_wrongly_declared_encoding_keeps_author_names(recorded, encoding, declared):
    text = api(api_entry(authors=("Paulo André Müller",))).decode()
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    content = (head + text.partition("?>")[2]).encode(encoding)

    ((_, reading),) = recorded(content)

    assert reading.sightings[0].authors == ("Paulo André Müller",)


def test_invalid_byte_does_not_corrupt_other_letters(recorded):
    content = api(api_entry(authors=("Zoë Żółw", "Ævar Ørn"))).replace(b"We do", b"We \xff do")

    ((_, reading),) = recorded(content)

    assert reading.sightings[0].authors == ("Zoë Żółw", "Ævar Ørn")


def test_control_character_does_not_reject_the_feed(recorded):
    content = feed(feed_entry(title="A\x0b \x00paper"), feed_entry("2607.00001v1"))

    ((_, reading),) = recorded(content.replace(b"\x00", b""))

    assert [s.title for s in reading.sightings] == ["A paper", "A paper"]


# --- Hostile files ------------------------------------------------------------------------------

_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
_ENTRY = api_entry().encode()
MB = 1024 * 1024

HOSTILE = {
    "laughs": lambda: (
        f'<?xml version="1.0"?><!DOCTYPE f [<!ENTITY l0 "ha">{_LAUGHS}]><feed>&l9;</feed>'
    ).encode(),
    "attributes": lambda: api().replace(
        b"</feed>",
        b"<link " + b" ".join(b'a%d="x"' % n for n in range(50_000)) + b"/>" + _ENTRY + b"</feed>",
    ),
    "one attribute": lambda: api().replace(
        b"</feed>", b'<link href="' + b"x" * 20 * MB + b'"/></feed>'
    ),
    "deep": lambda: b"<feed>" + b"<a>" * 1_000_000,
    "many elements": lambda: b"<feed>" + (b"<entry>" + b"<a/>" * 15_000 + b"</entry>") * 300,
    "one entry": lambda: b"<feed><entry>" + b"<author><name>A</name></author>" * 600_000,
    "open tag": lambda: b"<feed><entry><title " + b"a" * 20 * MB,
    "long text": lambda: api(api_entry(title="x" * 20 * MB)),
    "astral": lambda: api(api_entry(title="\U0001f40d" * 5 * MB)),
    "too large": lambda: b"<feed>" + b" " * 30 * MB,
    "json lists": lambda: b"[" + b"[]," * 4 * MB + b"[]]",
    "json deep": lambda: b"[" * 5 * MB,
    "json objects": lambda: b"[" + b'{"":0},' * 200_000 + b"{}]",
    "json numbers": lambda: b"[" + b"1," * 7 * MB + b"1]",
    "long number": lambda: b'[{"paper": {"id": ' + b"9" * 5 * MB + b"}}]",
    "long line": lambda: b'{"id": "' + b"x" * 30 * MB,
    "bad lines": lambda: b"{x\n" * 5_000_000,
    "empty lines": lambda: b"{\n" + b"\n" * 20_000_000,
    "gzip bomb": lambda: gzip.compress(b"{" + b" " * 400 * MB),
    "gzip xml": lambda: gzip.compress(b"<feed>" + b"<entry/>" * 5_000_000),
    "listing": lambda: listing(b"".join([b"<dt>" + b"class='list-title" * 500_000]).decode()),
    "formulas": lambda: api(
        *(
            api_entry(title="".join(f"$\\frac{{a_{i}}}{{b{j}}}$" for j in range(50)))
            for i in range(1_500)
        )
    ),
    "entities": lambda: api(api_entry(title="&lt;script&gt;" * 300_000)),
}

READ = """
import sys
from pathlib import Path
from pipeline.errors import SourceError
from pipeline.sources.recorded_files import read_file
try:
    readings = read_file(Path(sys.argv[1]))
except SourceError as error:
    print(f"error {error}")
else:
    print(f"sightings {sum(len(reading.sightings) for _, reading in readings)}")
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) // 1024)
"""


@pytest.mark.full
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_returns_papers_or_an_error_within_resource_limits(tmp_path, kind):
    """Within 10 s and 300 MB, measured in a separate process."""
    path = tmp_path / "hostile"
    path.write_bytes(HOSTILE[kind]())

    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).resolve().parents[1],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (10, 10)),
    )
    seconds = time.monotonic() - started

    assert done.stderr == ""
    assert done.returncode == 0
    outcome, megabytes = done.stdout.splitlines()
    assert outcome.startswith(("error file: hostile ", "sightings "))
    assert int(megabytes) < 300, f"{megabytes} MB in {seconds:.1f} s"


# --- Recorded files -----------------------------------------------------------------------------


def everything_recorded() -> list[Path]:
    files = SHARED.rglob("*") if SHARED.is_dir() else ()
    return sorted(
        path
        for path in files
        if path.is_file() and path.name != "README.md" and "eval" not in path.parts
    )


def entries_in(path: Path) -> int:
    """Return the number of papers in a file, counted without any of our code."""
    raw = path.read_bytes()
    raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    if ".jsonl" in path.name:
        return len(raw.splitlines())
    if path.suffix == ".json":
        document = json.loads(raw)
        if isinstance(document, list):
            return len(document)
        return len(document["collection"]) if "collection" in document else body_entries(document)
    return len(re.findall(rb"<(?:entry|record|dt|item)>", raw))


def body_entries(document: dict) -> int:
    return document["body"].count("<entry>")


def sightings_in(path: Path) -> list[Sighting]:
    return [s for _, reading in read_file(path) for s in reading.sightings]


@pytest.mark.full
@pytest.mark.shared
def test_every_recorded_response_returns_all_its_papers():
    files = everything_recorded()
    assert len(files) > 40

    unreadable = []
    for path in files:
        try:
            sightings = sightings_in(path)
        except SourceError as error:
            unreadable.append((path.name, str(error)))
            continue
        assert len(sightings) == entries_in(path), path.name
        for sighting in sightings:
            assert isinstance(sighting.source_id, str)
            assert sighting.title == " ".join(sighting.title.split()) != ""
            assert sighting.arxiv_id is None or isinstance(sighting.arxiv_id, str)

    assert [name.partition("_s0")[0] for name, _ in unreadable] == [
        "id_abc",
        "id_abc",
    ]


@pytest.mark.shared
def test_every_recorded_hugging_face_id_is_an_arxiv_id():
    for path in (SHARED / "hf_daily_papers").glob("*.json"):
        for sighting in sightings_in(path):
            assert re.fullmatch(r"\d{4}\.\d{4,5}", sighting.arxiv_id or "")
            assert sighting.announced_on == date.fromisoformat(path.stem)


@pytest.mark.shared
def test_recorded_weekend_feed_repeats_the_same_papers():
    friday, saturday = (
        {s.arxiv_id for s in sightings_in(SHARED / "arxiv_days" / f"2026-06-{day}.jsonl")}
        for day in (19, 20)
    )

    assert friday == saturday


@pytest.mark.full
def test_file_with_more_than_10000_papers_is_rejected(tmp_path: Path):
    path = tmp_path / "everything.jsonl"
    path.write_text('{"id": "3001.00001", "title": "T", "abstract": "A"}\n' * 10_001)

    with pytest.raises(SourceError, match="holds more than 10,000 papers; split it"):
        read_file(path)
