"""Thumbnails of papers: fetched once and within limits, and the same URL for every reader."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pipeline.matching.highlights import find
from pipeline.rendering import Renderer, views
from pipeline.rendering.fragments import plain
from pipeline.sources.client import Client, DownloadLimits, Response
from pipeline.web.middleware import A_MINUTE, AN_HOUR
from pipeline.web.papers import thumbnails
from pipeline.web.papers.thumbnails import A_WEEK, LARGEST, Thumbnail, Thumbnails, media_type
from tests.support import source_server
from tests.support.factories import make_digest, make_paper, make_pick, make_sighting
from tests.support.newsroom import ingest
from tests.support.rendered import BRANDING, EMAILS, LINKS, Seen
from tests.support.running import wait_until
from tests.support.site import Site, open_site
from tests.support.source_server import Reply

PNG = b"\x89PNG\r\n\x1a\n" + b"dots" * 100
ID = "3001.00001"


@pytest.fixture
def backend() -> str:
    """Run on SQLite only: the two databases differ in storage alone."""
    return "sqlite"


@pytest.fixture
def images() -> Iterator[source_server.Site]:
    with source_server.serve() as site:
        yield site


@pytest.fixture
def fetched(images) -> Thumbnails:
    bounds = DownloadLimits(2, 2, 4, wire=LARGEST, body=LARGEST)
    client = Client("Paperboy/test", bounds=bounds, allow_private=True, pauses=())
    return Thumbnails(client, images.url + "/{}.png")


@pytest.fixture
def site(engine, fetched) -> Site:
    site = open_site(engine, thumbnails=True)
    site.browser.app.state.thumbnails = fetched
    ingest(engine, make_sighting(ID, source="huggingface"), make_sighting("3001.00002"))
    return site


def load(fetched: Thumbnails, arxiv_id: str = ID) -> tuple[int, bytes]:
    """Return the status and the body of a picture, kept or fetched."""
    found = fetched.kept(arxiv_id)
    if found is None:
        pending = fetched.fetch(arxiv_id, lambda: True)
        assert pending is not None
        found = pending.result(10)
    return found.status, found.body


def test_thumbnail_is_fetched_once_and_may_be_cached_by_all(site, images):
    images.replies[f"/{ID}.png"] = Reply(PNG, headers={"Content-Type": "text/html"})

    answer = site.get(f"/thumbnails/{ID}")
    site.get(f"/thumbnails/{ID}")

    assert (answer.status_code, answer.content) == (200, PNG)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == f"public, max-age={A_WEEK}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers
    assert len(images.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b"", status=404),
        Reply(b"", status=410),
        Reply(b"<svg onload='alert(1)'>", headers={"Content-Type": "image/png"}),
        Reply(b"GIF89a"),
        Reply(PNG + b"x" * LARGEST),
        Reply(b"", status=302, headers={"Location": "ftp://other.example/a.png"}),
    ],
    ids=["missing", "gone", "SVG", "GIF", "too large", "redirect"],
)
def test_missing_and_invalid_pictures_are_404_and_not_fetched_again(site, images, reply):
    images.replies[f"/{ID}.png"] = reply

    clock = [0.0]
    site.browser.app.state.thumbnails.clock = lambda: clock[0]
    for clock[0], times in ((0, 1), (AN_HOUR - 1, 1), (AN_HOUR, 2)):
        answer = site.get(f"/thumbnails/{ID}")
        assert (answer.status_code, answer.content) == (404, b"")
        assert answer.headers["cache-control"] == f"public, max-age={A_MINUTE}"
        assert len(images.requests) == times


def test_redirects_to_other_hosts_are_not_followed(images, fetched):
    images.replies["/other.png"] = Reply(PNG)
    other = images.url.replace("127.0.0.1", "localhost")
    assert other != images.url

    for host, status in ((images.url, 200), (other, 404)):
        images.replies[f"/{status}.png"] = Reply(
            status=302, headers={"Location": f"{host}/other.png"}
        )
        assert load(fetched, str(status))[0] == status
    assert images.paths.count("/other.png") == 1


@pytest.mark.parametrize("reply", [Reply(status=503), Reply(status=429)])
def test_picture_is_fetched_again_a_minute_after_an_error(site, images, reply):
    clock = [0.0]
    site.browser.app.state.thumbnails.clock = lambda: clock[0]
    images.replies[f"/{ID}.png"] = reply
    answer = site.get(f"/thumbnails/{ID}")
    assert answer.status_code == 503
    assert answer.headers["cache-control"] == f"public, max-age={A_MINUTE}"

    images.replies[f"/{ID}.png"] = Reply(PNG)
    for clock[0], status in ((A_MINUTE - 1, 503), (A_MINUTE, 200)):
        assert site.get(f"/thumbnails/{ID}").status_code == status


def test_no_picture_is_fetched_before_the_time_of_retry_after(images, fetched):
    clock = [0.0]
    fetched.clock = lambda: clock[0]
    images.replies["/1.png"] = Reply(status=429, headers={"Retry-After": str(AN_HOUR)})
    images.replies["/2.png"] = Reply(PNG)

    for clock[0], key, status in ((0, "1", 503), (AN_HOUR - 9, "2", 503), (AN_HOUR + 9, "2", 200)):
        assert load(fetched, key)[0] == status
    assert len(images.requests) == 2


class SlowClient:
    """Client whose answers wait for `released`."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.urls: list[str] = []

    def get(self, url: str, **_options: object) -> Response:
        self.urls.append(url)
        self.released.wait(30)
        return Response(url, 200, PNG)


@pytest.fixture
def slow(fetched) -> Iterator[SlowClient]:
    fetched.client = client = SlowClient()
    yield client
    client.released.set()


def test_slow_fetch_delays_no_picture_in_memory_and_no_request_for_long(
    site, fetched, slow, monkeypatch
):
    monkeypatch.setattr(thumbnails, "PATIENCE", 0.2)
    fetched._keep(ID, Thumbnail(200, float("inf"), PNG, "image/png"))
    others = [f"3001.{n:05}" for n in range(10, 13)]
    site.announce(*(make_sighting(key, source="huggingface") for key in others))

    with ThreadPoolExecutor(3) as readers:
        waiting = [readers.submit(site.get, f"/thumbnails/{key}") for key in others]
        wait_until(lambda: slow.urls)
        assert site.get(f"/thumbnails/{ID}").content == PNG
        assert [one.result(10).status_code for one in waiting] == [503, 503, 503]
    slow.released.set()
    wait_until(lambda: not fetched._pending)

    assert len(slow.urls) == 1  # the others have waited too long
    assert site.get(f"/thumbnails/{slow.urls[0][-14:-4]}").content == PNG


def test_queue_of_fetches_is_limited(fetched, slow, monkeypatch):
    monkeypatch.setattr(thumbnails, "QUEUE", 2)

    first, second, third = (fetched.fetch(key, lambda: True) for key in ("1", "2", "3"))

    assert first is fetched.fetch("1", lambda: True)
    assert second is not None
    assert third is None


@pytest.mark.parametrize(
    "key", ["3001.00002", "3001.00003", "astro-ph", "..%2Fa", "3001.00001.png"]
)
def test_only_papers_from_hugging_face_are_fetched(site, images, key):
    assert site.get(f"/thumbnails/{key}").status_code == 404
    assert images.requests == []


def test_addresses_in_a_private_network_are_not_fetched(images, fetched):
    fetched.client = replace(fetched.client, allow_private=False)

    assert load(fetched) == (404, b"")
    assert images.requests == []


def test_nothing_is_fetched_without_the_setting(engine):
    site = open_site(engine)
    ingest(engine, make_sighting(ID, source="huggingface"))

    assert Thumbnails.of(site.services.settings) is None
    assert site.get(f"/thumbnails/{ID}").status_code == 404


def test_pictures_are_fetched_again_after_a_week(images, fetched):
    clock = [0.0]
    fetched.clock = lambda: clock[0]
    images.replies[f"/{ID}.png"] = Reply(PNG)

    for clock[0], times in ((0, 1), (A_WEEK - 1, 1), (A_WEEK, 2)):
        assert load(fetched) == (200, PNG)
        assert len(images.requests) == times


def test_memory_is_bounded_and_the_least_recently_used_picture_is_dropped(
    images, fetched, monkeypatch
):
    monkeypatch.setattr(thumbnails, "MEMORY", 3 * (len(PNG) + thumbnails.ENTRY))
    for number in range(4):
        images.replies[f"/{number}.png"] = Reply(PNG)

    for number in (0, 1, 2, 0, 3, 0, 1):
        assert load(fetched, str(number)) == (200, PNG)

    assert [path for path, _ in images.requests] == [f"/{n}.png" for n in (0, 1, 2, 3, 1)]


def test_concurrent_requests_fetch_a_picture_once(images, fetched):
    images.replies[f"/{ID}.png"] = Reply(PNG)
    together = threading.Barrier(4)

    def read() -> bytes:
        together.wait()
        return load(fetched)[1]

    with ThreadPoolExecutor(4) as readers:
        assert {future.result() for future in [readers.submit(read) for _ in range(4)]} == {PNG}
    assert len(images.requests) == 1


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0JFIF", "image/jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", ""),
        (b"", ""),
    ],
)
def test_type_of_a_picture_is_read_from_its_first_bytes(body, kind):
    assert media_type(body) == kind


def test_card_has_the_thumbnail_of_a_paper_from_hugging_face_if_the_setting_is_on():
    listed = make_paper(key=ID, sources=("arxiv", "huggingface"))
    others = make_paper(key="3001.00002"), make_paper(key="doi:10.1/x", sources=("huggingface",))
    digest = make_digest(*map(make_pick, (listed, *others)))
    shown = Renderer(replace(BRANDING, thumbnails=True), EMAILS, find).digest(digest, LINKS)
    plainer = Renderer(BRANDING, EMAILS, find).digest(digest, LINKS)

    tag = f'<img src="{BRANDING.site_url}/thumbnails/{ID}" alt="" width="96" height="52"'
    assert plain(shown.html).count("<img") == plain(shown.html).count(tag) == 1
    assert "<img" not in plain(plainer.html)
    assert Seen(plain(shown.html)).text.split() == Seen(plain(plainer.html)).text.split()
    assert views.card(listed, (), BRANDING, views.room(10)).thumbnail == ""
