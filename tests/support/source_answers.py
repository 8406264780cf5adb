"""Responses in the formats of arXiv and ORCID, with our own text."""

from __future__ import annotations

import json
from typing import Any
from xml.sax.saxutils import escape

_ATOM = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom"'
    ' xmlns:arxiv="http://arxiv.org/schemas/atom" xmlns:dc="http://purl.org/dc/elements/1.1/"'
    ' xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">'
)


def feed(*entries: str, title: str = "cs.AI updates on arXiv.org") -> bytes:
    return f"{_ATOM}<title>{title}</title>{''.join(entries)}</feed>".encode()


def feed_entry(
    name: str = "2607.28624v1",
    *,
    kind: str = "new",
    on: str = "2026-07-31T00:00:00-04:00",
    title: str = "A paper",
    abstract: str = "We do things.",
    authors: str = "Ada Lovelace, Grace Hopper",
    categories: tuple[str, ...] = ("cs.AI",),
) -> str:
    terms = "".join(f'<category term="{c}"/>' for c in categories)
    summary = f"arXiv:{name} Announce Type: {kind} \nAbstract: {abstract}"
    return (
        f"<entry><id>oai:arXiv.org:{name}</id><title>{escape(title)}</title>"
        f"<updated>2026-07-31T04:00:20.1+00:00</updated><summary>{escape(summary)}</summary>"
        f'<link href="https://arxiv.org/abs/{name.partition("v")[0]}" rel="alternate"/>'
        f"{terms}<published>{on}</published><arxiv:announce_type>{kind}</arxiv:announce_type>"
        f"<dc:creator>{escape(authors)}</dc:creator></entry>"
    )


def rss(*items: str) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0"'
        ' xmlns:arxiv="http://arxiv.org/schemas/atom"'
        ' xmlns:dc="http://purl.org/dc/elements/1.1/"><channel><title>cs.AI updates</title>'
        "<lastBuildDate>Fri, 31 Jul 2026 04:00:02 +0000</lastBuildDate>"
        f"{''.join(items)}</channel></rss>"
    ).encode()


def rss_item(name: str = "2607.28624v1", *, kind: str = "new", title: str = "A paper") -> str:
    return (
        f"<item><title>{escape(title)}</title><link>https://arxiv.org/abs/2607.28624</link>"
        f"<description>arXiv:{name} Announce Type: {kind} \nAbstract: We do things.</description>"
        f'<guid isPermaLink="false">oai:arXiv.org:{name}</guid><category>cs.AI</category>'
        f"<pubDate>Fri, 31 Jul 2026 00:00:00 -0400</pubDate>"
        f"<arxiv:announce_type>{kind}</arxiv:announce_type>"
        "<arxiv:DOI>10.1000/ABC</arxiv:DOI><dc:creator>Ada Lovelace (Analytical Society)"
        "</dc:creator></item>"
    )


def api(*entries: str, total: int | None = None) -> bytes:
    count = len(entries) if total is None else total
    return (
        f"{_ATOM}<title>arXiv Query: search_query=x</title>"
        f"<opensearch:totalResults>{count}</opensearch:totalResults>"
        f"{''.join(entries)}</feed>"
    ).encode()


def api_entry(
    name: str = "2607.28624v1",
    *,
    published: str = "2026-07-30T12:00:00Z",
    title: str = "A paper",
    comment: str = "",
    authors: tuple[str, ...] = ("Ada Lovelace",),
) -> str:
    people = "".join(f"<author><name>{escape(author)}</name></author>" for author in authors)
    return (
        f"<entry><id>http://arxiv.org/abs/{name}</id><title>{escape(title)}</title>"
        f"<updated>2026-07-30T12:00:00Z</updated><published>{published}</published>"
        f"<summary>  We do\n things.</summary><arxiv:comment>{escape(comment)}</arxiv:comment>"
        f'<category term="cs.LG"/><category term="cs.AI"/>{people}'
        '<arxiv:primary_category term="cs.AI"/></entry>'
    )


def api_error(scheme: str = "https") -> bytes:
    return api(
        f"<entry><id>{scheme}://arxiv.org/api/errors#incorrect_id_format_for_abc</id>"
        "<title>Error</title><summary>incorrect id format for abc</summary></entry>"
    )


def oai(*records: str, error: str = "", token: str = "") -> bytes:
    listed = f"<ListRecords>{''.join(records)}<resumptionToken>{token}</resumptionToken>"
    return (
        '<?xml version="1.0"?><OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/">'
        "<responseDate>2026-07-31T21:19:34Z</responseDate>"
        f"{error or listed + '</ListRecords>'}</OAI-PMH>"
    ).encode()


def oai_record(
    name: str = "2607.28624",
    *,
    changed: str = "2026-07-31",
    first: str = "Thu, 30 Jul 2026 12:00:00 GMT",
    authors: str = r"Pedro Orvalho and Mikol\'a\v{s} Janota",
) -> str:
    return (
        f"<record><header><identifier>oai:arXiv.org:{name}</identifier>"
        f"<datestamp>{changed}</datestamp></header><metadata>"
        '<arXivRaw xmlns="http://arxiv.org/OAI/arXivRaw/">'
        f'<id>{name}</id><version version="v1"><date>{first}</date></version>'
        '<version version="v2"><date>Fri, 31 Jul 2026 12:00:00 GMT</date></version>'
        f"<title>A paper</title><authors>{escape(authors)}</authors>"
        "<categories>cs.SE cs.AI</categories><comments>31 pages</comments>"
        "<doi>10.1000/ABC</doi><abstract>We do things.</abstract></arXivRaw></metadata></record>"
    )


def listing(*entries: str) -> bytes:
    return (
        "<html><body><h3>Showing new listings for Wednesday, 12 August 2026</h3>"
        f"{''.join(entries)}</body></html>"
    ).encode()


def listed(name: str = "2608.09949", *, title: str = "A paper", version: int = 1) -> str:
    return (
        f'<dt><a name=\'item1\'>[1]</a> <a href ="/abs/{name}" title="Abstract">arXiv:{name}</a>'
        f' [<a href="https://arxiv.org/html/{name}v{version}">html</a>]</dt><dd>'
        "<div class='list-title mathjax'><span class='descriptor'>Title:</span>"
        f"\n  {title}\n</div><div class='list-authors'><a href=\"/a\">Ada Lovelace</a>, "
        "<a href=\"/b\">Grace Hopper</a></div><div class='list-subjects'>"
        "<span class='descriptor'>Subjects:</span> <span class=\"primary-subject\">Artificial "
        "Intelligence (cs.AI)</span>; Machine Learning (cs.LG)</div>"
        "<p class='mathjax'>We do things.</p></dd>"
    )


# --- Authors ------------------------------------------------------------------------------------


def orcid_work(
    title: str,
    *,
    doi: str = "",
    arxiv: str = "",
    year: str = "",
    relation: str = "self",
    normalized: str = "",
) -> dict[str, Any]:
    """Return a group of ORCID's list of works (API v3.0) with one summary."""
    ids = [
        {
            "external-id-type": kind,
            "external-id-value": value,
            "external-id-normalized": {"value": normalized} if normalized else None,
            "external-id-relationship": relation,
        }
        for kind, value in (("doi", doi), ("arxiv", arxiv))
        if value
    ]
    summary = {
        "put-code": 7,
        "title": {"title": {"value": title}, "subtitle": None},
        "external-ids": {"external-id": ids},
        "type": "journal-article",
        "publication-date": {"year": {"value": year}, "month": None} if year else None,
        "visibility": "public",
    }
    return {"external-ids": {"external-id": ids}, "work-summary": [summary]}


def orcid_works(*groups: Any) -> bytes:
    return json.dumps({"last-modified-date": None, "group": groups}).encode()


def author_feed(*papers: tuple[str, str, tuple[str, ...], str]) -> bytes:
    """Return the Atom feed of an arXiv author; a paper is its id, title, authors and date."""
    entries = "".join(
        f"<entry><id>{id_}</id><published>{date_}</published><title>{title}</title>"
        "<summary>About moss.</summary>"
        + "".join(f"<author><name>{name}</name></author>" for name in names)
        + "</entry>"
        for id_, title, names, date_ in papers
    )
    return (
        '<feed xmlns="http://www.w3.org/2005/Atom"><title>Bo Fern</title>'
        f"<updated>2030-01-02 00:00:00</updated>{entries}</feed>"
    ).encode()
