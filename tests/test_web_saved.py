"""The list of saved papers: page, search, notes, files, and the private feeds of a reader."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import quote
from xml.etree import ElementTree

import pytest
from sqlalchemy import Engine, insert, update

from pipeline import references, signup
from pipeline.domain import DeliveryStatus, Liking, Subscriber
from pipeline.signup.saved import with_words
from pipeline.storage import reactions
from pipeline.storage.reactions import Reaction
from pipeline.storage.schema import DeliveryRow, ProfileRow, ReactionRow
from tests.support.factories import make_sighting
from tests.support.newsroom import everything, rows, stored
from tests.support.site import ADA, ELSEWHERE, Site, links_in, now, open_site

NASTY = "<img src=x onerror=alert(1)>"
ATOM = "{http://www.w3.org/2005/Atom}"
BROUGHT = "title:0123456789abcdef"


@pytest.fixture
def site(engine: Engine) -> Site:
    return open_site(engine)


@pytest.fixture
def reader(site: Site) -> Subscriber:
    announce(site, "Dense retrieval", authors=("José Núñez",))
    announce(site, f"Sparse retrieval {NASTY}", authors=("Ada Lovelace",))
    return site.reader()


def announce(site: Site, title: str, **changes) -> None:
    site.announce(make_sighting(title=title, announced_on=now().date(), **changes))


def save(site: Site, reader: Subscriber, *notes: str) -> None:
    """Save the first papers, in this order, with these notes."""
    for paper, note in zip(stored(site.engine), notes, strict=False):
        signup.annotate(site.engine, reader.id, paper.key, note, now())


def bring(site: Site, reader: Subscriber, **changes) -> None:
    """Save a paper that is not stored."""
    brought = {
        "key": BROUGHT,
        "paper_id": None,
        "title": "On Computable Numbers",
        "authors": ("Alan Turing",),
        "terms": b"",
        "telling": (),
        "at": now(),
        "is_own": True,
        "saved_at": now(),
    }
    with site.engine.begin() as conn:
        reactions.put(conn, reader.id, Reaction(**{**brought, **changes}))


def list_of(site: Site, reader: Subscriber) -> str:
    return f"{site.preferences(reader)}/saved"


def titles(page: str) -> list[str]:
    found = re.findall(r'<h2 class="title"[^>]*>(.*?)</h2>', page)
    return [unescape(re.sub("<[^>]+>", "", title)) for title in found]


def feed_of(site: Site, reader: Subscriber) -> str:
    """Create the feeds; return the path before the name of each."""
    site.post(list_of(site, reader), data={"do": "create"})
    (profile,) = rows(site.engine, ProfileRow)
    return f"/feeds/{profile.feed_secret}"


# --- The page -----------------------------------------------------------------------------------


def test_saved_papers_are_listed_last_saved_first_with_links_and_notes(site, reader):
    url = list_of(site, reader)
    assert "Nothing saved yet." in site.get(url).text
    save(site, reader, 'read "this" first', "")

    page = site.get(url).text

    assert titles(page) == [f"Sparse retrieval {NASTY}", "Dense retrieval"]
    assert NASTY not in page
    assert "José Núñez" in page
    assert 'value="read &#34;this&#34; first"' in page
    first = stored(site.engine)[0].key
    assert f"{url.removesuffix('/saved')}/papers/{first}" in links_in(page)


def test_list_is_linked_from_the_other_pages_of_the_reader(site, reader):
    save(site, reader, "a note")
    base = site.preferences(reader)
    for page in (base, f"{base}/interests", f"{base}/papers/{stored(site.engine)[0].key}"):
        assert f"{base}/saved" in links_in(site.get(page).text)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("NUNEZ", ["Dense retrieval"]),
        ("retrieval ada", [f"Sparse retrieval {NASTY}"]),
        ("schön", [f"Sparse retrieval {NASTY}"]),
        ("SCHONER dense", []),
        ("retrie", [f"Sparse retrieval {NASTY}", "Dense retrieval"]),
        ("nothing", []),
        (" ", [f"Sparse retrieval {NASTY}", "Dense retrieval"]),
        ("\x00", [f"Sparse retrieval {NASTY}", "Dense retrieval"]),
        (NASTY, [f"Sparse retrieval {NASTY}"]),
    ],
)
def test_search_ignores_case_and_accents_in_titles_authors_and_notes(site, reader, words, found):
    save(site, reader, "", "Ein schöner Beweis")

    page = site.get(list_of(site, reader), params={"q": words})

    assert titles(page.text) == found
    assert NASTY not in page.text


def test_list_is_paged_and_a_wrong_page_is_clamped(site, reader):
    for number in range(60):
        bring(site, reader, key=f"title:{number:016}", title=f"Paper {number}")
    url = list_of(site, reader)

    first, second = site.get(url).text, site.get(url, params={"page": "2"}).text

    assert (len(titles(first)), len(titles(second))) == (50, 10)
    assert not set(titles(first)) & set(titles(second))
    assert f"{url}?page=2" in links_in(first)
    for page in ("99", "-1", "x", "\u0663", "9" * 400):
        assert len(titles(site.get(url, params={"page": page}).text)) in {10, 50}
    found = site.get(url, params={"q": "paper", "page": "2"}).text
    assert f"{url}?q=paper" in links_in(found)


def test_note_is_edited_in_place(site, reader):
    save(site, reader, "old")
    key = stored(site.engine)[0].key

    form = {"do": "note", "key": key, "note": "new\nline", "q": "dense", "page": "1"}
    answer = site.post(list_of(site, reader), data=form)

    assert answer.status_code == 303
    assert answer.headers["location"].endswith(f"#{quote(key, safe='')}")
    page = site.get(answer.headers["location"]).text
    assert "Your note is saved." in page
    assert 'value="new line"' in page
    assert 'value="dense"' in page


def test_removed_paper_leaves_the_list_and_keeps_its_like(site, reader):
    save(site, reader, "a note")
    key = stored(site.engine)[0].key
    signup.like(site.engine, reader.id, key, Liking.MORE, now())

    answer = site.post(list_of(site, reader), data={"do": "remove", "key": key})

    assert "Removed from your list." in site.get(answer.headers["location"]).text
    (row,) = rows(site.engine, ReactionRow)
    assert (row.saved_at, row.note, row.liking) == (None, "", 1)


def test_paper_that_is_not_stored_is_listed_annotated_and_removed(site, reader):
    bring(site, reader, url="https://example.org/computable", year=1936)
    url = list_of(site, reader)
    page = site.get(url).text
    assert "https://example.org/computable" in links_in(page)
    assert "1936" in page

    site.post(url, data={"do": "note", "key": BROUGHT, "note": "a classic"})
    assert [row.note for row in rows(site.engine, ReactionRow)] == ["a classic"]
    site.post(url, data={"do": "remove", "key": BROUGHT})

    assert [row.saved_at for row in rows(site.engine, ReactionRow)] == [None]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "", "ftp://x.org/y"])
def test_only_a_web_address_becomes_a_link(site, reader, url):
    bring(site, reader, url=url)
    feed = feed_of(site, reader)

    assert titles(site.get(list_of(site, reader)).text) == ["On Computable Numbers"]
    for written in (
        site.get(list_of(site, reader)).text,
        site.get(f"{feed}/saved.atom").text,
        site.get(f"{feed}/saved.json").text,
    ):
        assert "alert" not in written
        assert "data:" not in written
        assert "ftp:" not in written


def test_weekly_mail_is_switched_on_and_off_and_survives_the_other_switches(site, reader):
    url = list_of(site, reader)
    assert "Send weekly" in site.get(url).text

    page = site.get(site.post(url, data={"do": "weekly"}).headers["location"]).text

    assert "Papers that you save are mailed to you once a week." in page
    site.post(url, data={"do": "create"})
    signup.like(site.engine, reader.id, stored(site.engine)[0].key, Liking.MORE, now())
    assert [row.saved_weekly for row in rows(site.engine, ProfileRow)] == [True]
    assert "Stop the weekly email" in site.get(url).text
    exported = signup.export(site.engine, reader.id)
    assert exported["profile"]["saved_weekly"] is True

    page = site.get(site.post(url, data={"do": "stop"}).headers["location"]).text

    assert "Your saved papers are no longer mailed." in page
    assert [row.saved_weekly for row in rows(site.engine, ProfileRow)] == [False]


@pytest.mark.parametrize("do", ["", "like", "note note", NASTY])
def test_unknown_action_is_refused(site, reader, do):
    assert site.post(list_of(site, reader), data={"do": do}).status_code == 422


def test_list_needs_a_valid_link_a_known_paper_and_our_own_page(site, reader):
    url = list_of(site, reader)
    form = {"do": "note", "key": stored(site.engine)[0].key, "note": "x"}

    assert site.post(url, data=form, headers=ELSEWHERE).status_code == 403
    for bad in (url, f"{url}.bib"):
        assert site.get(re.sub(r"preferences/\w", "preferences/9", bad)).status_code == 410
    for key in ("2401.99999", "", "\x00", BROUGHT):
        assert site.post(url, data={**form, "key": key}).status_code == 404
    signup.leave(site.engine, reader.secret, now())
    for do in ("note", "remove", "create", "revoke", "weekly", "stop"):
        assert site.post(url, data={**form, "do": do}).status_code == 404
    assert rows(site.engine, ReactionRow) == rows(site.engine, ProfileRow) == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_opening_a_page_a_file_or_a_feed_changes_no_table(site, reader, method):
    save(site, reader, "a note")
    site.publish()
    feed, url = feed_of(site, reader), list_of(site, reader)
    before = everything(site.engine)
    paths = [url, f"{url}?q=dense&done=create&page=2", *(f"{url}.{e}" for e in FILES)]
    paths += [f"{feed}/{name}.{form}" for name in ("digests", "saved") for form in ("atom", "json")]

    for path in paths:
        assert site.browser.request(method, path).status_code == 200, path

    assert everything(site.engine) == before


# --- Files --------------------------------------------------------------------------------------

FILES = {
    "bib": "application/x-bibtex",
    "ris": "application/x-research-info-systems",
    "json": "application/vnd.citationstyles.csl+json",
    "md": "text/markdown",
}


@pytest.mark.parametrize("extension", FILES)
def test_list_is_downloaded_with_notes_and_papers_that_are_not_stored(site, reader, extension):
    save(site, reader, "a fine note", "")
    bring(site, reader, year=1936, url="https://example.org/computable", note="a classic")

    answer = site.get(f"{list_of(site, reader)}.{extension}")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(FILES[extension])
    assert re.fullmatch(
        rf'attachment; filename="papers\.example\.org-[\d-]+\.{extension}"',
        answer.headers["content-disposition"],
    )
    assert answer.headers["cache-control"] == "no-store"
    for text in ("On Computable Numbers", "Dense retrieval", "1936", "a fine note", "a classic"):
        assert text in answer.text
    if extension != "md":
        assert len(references.parse(answer.text).entries) == 3


@pytest.mark.parametrize("extension", FILES)
def test_paper_without_a_year_is_written_without_one(site, reader, extension):
    bring(site, reader)

    written = site.get(f"{list_of(site, reader)}.{extension}").text

    assert "On Computable Numbers" in written
    assert not re.search(r"\d", written)
    assert written.rstrip("\r\n ")[-1] != "." or extension != "md"


def test_empty_list_is_downloaded_and_an_unknown_format_is_not(site, reader):
    url = list_of(site, reader)

    assert {site.get(f"{url}.{e}").status_code for e in FILES} == {200}
    assert site.get(f"{url}.csv").status_code == 404


# --- Feeds --------------------------------------------------------------------------------------


def entries(answer) -> list[ElementTree.Element]:
    return ElementTree.fromstring(answer.content).findall(f"{ATOM}entry")


def test_feed_of_digests_has_the_papers_that_were_sent_with_their_reasons(site, reader):
    site.publish()
    feed = feed_of(site, reader)

    atom, items = site.get(f"{feed}/digests.atom"), site.get(f"{feed}/digests.json").json()["items"]

    found = {entry.findtext(f"{ATOM}title"): entry for entry in entries(atom)}
    assert found.keys() == {"Dense retrieval", f"Sparse retrieval {NASTY}"}
    assert {item["title"] for item in items} == found.keys()
    text = found["Dense retrieval"].findtext(f"{ATOM}summary") or ""
    assert text.endswith("\n\nretrieval · Matched “retrieval”")
    key = stored(site.engine)[0].key
    assert f"https://papers.example.org/papers/{key}" in {item["url"] for item in items}
    assert NASTY not in atom.text


@pytest.mark.parametrize("status", DeliveryStatus)
def test_feed_has_only_digests_that_reached_the_reader(site, reader, status):
    site.publish()
    feed = feed_of(site, reader)
    with site.engine.begin() as conn:
        conn.execute(update(DeliveryRow).values(status=status))

    shown = len(entries(site.get(f"{feed}/digests.atom")))

    reached = {"queued", "leased", "sending", "sent", "uncertain"}
    assert shown == (2 if status in reached else 0)


def test_feed_of_the_list_has_notes_and_papers_that_are_not_stored(site, reader):
    save(site, reader, "a fine note")
    bring(site, reader, url="https://example.org/computable")
    feed = feed_of(site, reader)

    new, old = entries(site.get(f"{feed}/saved.atom"))
    items = site.get(f"{feed}/saved.json").json()["items"]

    assert old.findtext(f"{ATOM}summary", "").startswith("a fine note\n\n")
    assert new.find(f"{ATOM}link").get("href") == "https://example.org/computable"
    assert [item["title"] for item in items] == ["On Computable Numbers", "Dense retrieval"]


def test_entry_without_an_address_has_content(site, reader):
    bring(site, reader)

    (entry,) = entries(site.get(f"{feed_of(site, reader)}/saved.atom"))

    assert entry.find(f"{ATOM}link") is None
    assert entry.find(f"{ATOM}content") is not None


def test_feed_contains_neither_its_address_nor_a_personal_link(site, reader):
    save(site, reader, "a note", "")
    site.publish()
    feed = feed_of(site, reader)

    for name in ("digests", "saved"):
        for form in ("atom", "json"):
            answer = site.get(f"{feed}/{name}.{form}")
            assert feed.removeprefix("/feeds/") not in answer.text
            assert not re.search(r"/(preferences|unsubscribe|digests|data|feeds)/", answer.text)
            assert reader.email not in answer.text
        assert json.loads(answer.text)["version"] == "https://jsonfeed.org/version/1.1"


def test_feed_is_private_and_unchanged_until_something_is_sent_or_saved(site, reader):
    feed, tags = feed_of(site, reader), {}
    for name in ("digests", "saved"):
        answer = site.get(f"{feed}/{name}.atom")
        tags[name] = {"If-None-Match": answer.headers["etag"]}
        again = site.get(f"{feed}/{name}.atom", headers=tags[name])
        assert (again.status_code, again.content) == (304, b"")
        assert site.browser.head(f"{feed}/{name}.atom", headers=tags[name]).status_code == 304
        for one in (answer, again):
            assert one.headers["cache-control"] == "private, no-cache"
            assert "noindex" in one.headers["x-robots-tag"]

    site.publish()
    save(site, reader, "a note")

    for name, known in tags.items():
        changed = site.get(f"{feed}/{name}.atom", headers=known)
        assert (changed.status_code, len(entries(changed)) > 0) == (200, True)
    signup.annotate(site.engine, reader.id, stored(site.engine)[0].key, "other", now())
    known = {"If-None-Match": changed.headers["etag"]}
    assert site.get(f"{feed}/saved.atom", headers=known).status_code == 200


def test_feeds_are_created_once_and_revoked_at_once(site, reader):
    url = list_of(site, reader)
    assert "/feeds/" not in site.get(url).text
    first = feed_of(site, reader)
    assert feed_of(site, reader) == first
    assert len(first) == len("/feeds/") + 22
    assert f"https://papers.example.org{first}/saved.atom" in links_in(site.get(url).text)

    answer = site.post(url, data={"do": "revoke"})

    page = site.get(answer.headers["location"]).text
    assert "no longer work" in page
    assert "/feeds/" not in page
    assert site.get(f"{first}/saved.atom").status_code == 404
    assert feed_of(site, reader) != first
    assert site.get(f"{first}/digests.json").status_code == 404


def test_learning_and_resetting_keep_the_feeds(site, reader):
    feed = feed_of(site, reader)
    signup.like(site.engine, reader.id, stored(site.engine)[0].key, Liking.MORE, now())
    signup.configure(site.engine, reader.id, now(), is_on=False)
    signup.reset(site.engine, reader.id, now())

    assert site.get(f"{feed}/saved.atom").status_code == 200
    assert [row.is_on for row in rows(site.engine, ProfileRow)] == [False]


@pytest.mark.parametrize("name", ["digests.atom", "saved.json"])
def test_feeds_end_with_the_subscription_and_not_in_a_pause(site, reader, name):
    url = f"{feed_of(site, reader)}/{name}"
    site.alter(reader, paused_until=now().date().replace(year=2999))
    assert site.get(url).status_code == 200

    signup.leave(site.engine, reader.secret, now())
    assert site.get(url).status_code == 404
    signup.undo(site.engine, reader.secret, now())
    assert site.get(url).status_code == 200

    signup.erase(site.engine, ADA)
    assert site.get(url).status_code == 404


@pytest.mark.parametrize(
    "path", ["x/saved.atom", "None/saved.atom", "%00/saved.atom", f"{'x' * 22}/digests.json"]
)
def test_unknown_feed_is_not_found(site, reader, path):
    site.post(list_of(site, reader), data={"do": "create"})
    other = site.reader("bob@example.org")
    with site.engine.begin() as conn:  # a profile without feeds
        conn.execute(
            insert(ProfileRow).values(
                subscriber_id=other.id, is_on=True, outside=True, removed=[], likes=0, terms=b"",
                authors={}, liked=[], feed_secret=None, changed_at=now(),
            )
        )  # fmt: skip

    answer = site.get(f"/feeds/{path}")

    assert answer.status_code == 404
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["digests.rss", "saved.xml", "saved", "other.atom"])
def test_unknown_format_of_a_feed_is_not_found(site, reader, name):
    assert site.get(f"{feed_of(site, reader)}/{name}").status_code == 404


# --- Search (pure) ------------------------------------------------------------------------------


def test_words_of_a_search_may_be_parts_of_words():
    texts = {"a": "Über Łukasiewicz Ørsted, Æ. Straße", "b": "Uber"}

    for words in ("lukasie", "ORSTED ae", "strasse UBER"):
        assert with_words(texts, words) == ["a"]
    assert with_words(texts, "ÜBER") == ["a", "b"]
    assert with_words(texts, "uber x") == []
