"""Sightings become papers: each work is stored once, from any source and in any order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select, update

from pipeline.domain import Breadth, DeliveryStatus, Sighting
from pipeline.storage import digests, sightings, topics
from pipeline.storage.schema import (
    DeliveryRow,
    PaperVersionRow,
    PickRow,
    SightingRow,
)
from tests.support.factories import NOW, TODAY, make_match, make_paper, make_sighting
from tests.support.newsroom import count, empty, ingest, matches, rows, store, stored, touched
from tests.support.outbox import add_delivery, add_subscriber

TITLE = "Attention for Patient Readers"


def listed(arxiv_id: str, **changes: object) -> Sighting:
    """Return the sighting of an arXiv paper at Hugging Face."""
    values = {"source": "huggingface", "categories": (), "keywords": ("agents",), "upvotes": 7}
    return make_sighting(arxiv_id, **{**values, **changes})


# --- One paper per work -------------------------------------------------------------------------


def test_storing_is_idempotent(engine: Engine):
    found = [make_sighting(), make_sighting(None, source="feed"), listed("2503.02130")]

    first = store(engine, *found)
    kept, versions = stored(engine), count(engine, PaperVersionRow)
    second = store(engine, *found, batch=2)

    assert (first.sightings, first.new, first.touched) == (3, 3, 3)
    assert (second.sightings, second.new, second.touched) == (3, 0, 0)
    assert stored(engine) == kept
    assert count(engine, PaperVersionRow) == versions
    assert count(engine, SightingRow) == 3


def test_arxiv_ids_keep_their_zeros(engine: Engine):
    store(engine, make_sighting("2503.02130"), make_sighting("astro-ph/0601001"))

    assert [paper.key for paper in stored(engine)] == ["2503.02130", "astro-ph/0601001"]


def test_sightings_from_several_sources_become_one_paper(engine: Engine):
    announced = make_sighting("3001.00001", title="Announced", categories=("cs.CL",))
    store(engine, announced, listed("3001.00001", title="Listed", comments=3))

    (paper,) = stored(engine)

    assert paper.sources == ("arxiv", "huggingface")
    assert (paper.title, paper.upvotes, paper.comments) == ("Announced", 7, 3)
    assert (paper.categories, paper.keywords) == (("cs.CL",), ("agents",))


def test_stars_are_updated_by_the_source_that_knows_them(engine: Engine):
    store(engine, listed("3001.00001", stars=3))
    store(engine, make_sighting("3001.00001"))
    assert stored(engine)[0].stars == 3

    store(engine, listed("3001.00001", stars=1_200))

    assert stored(engine)[0].stars == 1_200


def test_new_version_updates_the_text_without_creating_a_paper(engine: Engine):
    store(engine, make_sighting("3001.00001", title="One", version=1))

    again = store(engine, make_sighting("3001.00001", title="Two", version=2), batch=2)
    store(engine, make_sighting("3001.00001", title="One", version=1), batch=3)

    (paper,) = stored(engine)
    assert (again.new, again.touched) == (0, 0)
    assert (paper.title, paper.version, paper.batch) == ("Two", 2, 1)


@pytest.mark.parametrize(
    "gain",
    [{"categories": ("cs.IR", "cs.LG")}, {"keywords": ("retrieval",)}, {"source": "feed"}],
    ids=["a cross-list", "keywords", "another source"],
)
def test_gained_metadata_marks_the_paper_for_matching(engine: Engine, gain: dict[str, object]):
    sighting = make_sighting("3001.00001")
    store(engine, sighting, make_sighting("3001.00002"))

    again = store(engine, replace(sighting, **gain), batch=2)

    assert (again.new, again.touched) == (0, 1)
    assert touched(engine) == {"3001.00001": 2, "3001.00002": 1}


def test_changed_upvotes_do_not_trigger_matching(engine: Engine):
    store(engine, listed("3001.00001", upvotes=7))

    store(engine, listed("3001.00001", upvotes=70), batch=2)
    store(engine, listed("3001.00001", upvotes=None), batch=3)

    assert [paper.upvotes for paper in stored(engine)] == [70]
    assert touched(engine) == {"3001.00001": 1}


@pytest.mark.parametrize("change", [{"update_only": True}, {"withdrawn": True}])
def test_replacements_and_withdrawals_create_nothing(engine: Engine, change: dict[str, bool]):
    paper = make_sighting("3001.00001", version=1)
    later = replace(paper, version=2, title="Later", **change)

    unknown = store(engine, later)
    store(engine, paper)
    known = store(engine, later, batch=2)

    assert (unknown.new, known.new) == (0, 0)
    (kept,) = stored(engine)
    assert kept.title == "Later"
    assert kept.withdrawn == change.get("withdrawn", False)


def test_unpublished_batch_counts_as_touched_in_the_next_run(engine: Engine):
    """Its batch was never published, so the next run uses the same number."""
    sighting = make_sighting()
    store(engine, sighting)

    again = store(engine, sighting)

    assert (again.new, again.touched) == (0, 1)


def test_last_of_two_conflicting_sightings_in_one_reading_is_kept(engine: Engine):
    reading = [
        make_sighting("3001.00001", title="Early"),
        make_sighting("3001.00001", title="Late"),
    ]

    store(engine, *reading)
    store(engine, *reading, batch=2)

    (paper,) = stored(engine)
    assert paper.title == "Late"
    assert paper.version == 2


def test_same_title_with_different_dois_makes_two_papers(engine: Engine):
    """If a feed identifies its entries by DOI alone."""
    first, second = (
        make_sighting(None, source="feed", source_id="", title="Editorial", doi=doi, authors=(who,))
        for doi, who in (("10.1/a", "Ada Lovelace"), ("10.1/b", "Grace Hopper"))
    )

    store(engine, first, second)

    assert [paper.key for paper in stored(engine)] == ["doi:10.1/a", "doi:10.1/b"]


# --- Two records of one work --------------------------------------------------------------------


def two_records(engine: Engine) -> tuple[int, int]:
    """Store one work as two papers, from arXiv and bioRxiv; return their ids in this order."""
    store(engine, make_sighting("3001.00001", title="At arXiv", categories=("cs.IR",)))
    store(
        engine,
        make_sighting(
            None, source="biorxiv", source_id="b1", title="Elsewhere", doi="10.1/x", upvotes=5,
            categories=(), keywords=("biology",), announced_on=TODAY - timedelta(days=3),
        ),
    )  # fmt: skip
    at_arxiv, elsewhere = stored(engine)
    return at_arxiv.id, elsewhere.id


def unite(engine: Engine) -> None:
    store(engine, make_sighting("3001.00001", title="At arXiv", doi="10.1/x", version=2), batch=9)


def test_uniting_two_records_merges_their_metadata(engine: Engine):
    at_arxiv, _ = two_records(engine)

    unite(engine)

    (paper,) = stored(engine)
    assert (paper.id, paper.key, paper.title) == (at_arxiv, "3001.00001", "At arXiv")
    assert (paper.sources, paper.keywords) == (("arxiv", "biorxiv"), ("biology",))
    assert (paper.upvotes, paper.announced_on) == (5, TODAY - timedelta(days=3))
    assert touched(engine) == {"3001.00001": 9}
    unite(engine)
    assert stored(engine) == [paper]


def test_organization_is_kept_when_another_source_announces_the_paper(engine: Engine):
    store(
        engine, make_sighting("3001.00001", source="huggingface", organization="Society"), batch=1
    )
    store(engine, make_sighting("3001.00001", source="arxiv", version=2), batch=2)

    (paper,) = stored(engine)
    assert (paper.organization, paper.sources) == ("Society", ("arxiv", "huggingface"))


def test_united_records_keep_the_earliest_match_batch(engine: Engine):
    at_arxiv, elsewhere = two_records(engine)
    with engine.begin() as conn:
        first, second, third = (topics.find_or_add(conn, q, NOW) for q in ("a", "b", "c"))
        found = [
            (make_match(first, make_paper(id=at_arxiv)), 5),
            (make_match(first, make_paper(id=elsewhere)), 3),
            (make_match(second, make_paper(id=at_arxiv)), 3),
            (make_match(second, make_paper(id=elsewhere)), 5),
            (make_match(third, make_paper(id=elsewhere)), 4),
        ]
        topics.add_matches(conn, found)

    unite(engine)

    assert matches(engine) == {
        (first.id, at_arxiv, 3),
        (second.id, at_arxiv, 3),
        (third.id, at_arxiv, 4),
    }


def test_united_records_keep_the_match_with_the_narrower_breadth(engine: Engine):
    """It reaches readers with a narrower breadth, too."""
    at_arxiv, elsewhere = two_records(engine)
    with engine.begin() as conn:
        first, second = (topics.find_or_add(conn, query, NOW) for query in ("a", "b"))
        in_passing, sure = (
            [
                replace(make_match(topic, make_paper(id=id_)), breadth=breadth)
                for topic in (first, second)
            ]
            for id_, breadth in ((at_arxiv, Breadth.MORE), (elsewhere, Breadth.BALANCED))
        )
        topics.add_matches(
            conn, [(in_passing[0], 3), (sure[0], 5), (in_passing[1], 5), (sure[1], 3)]
        )

    unite(engine)

    assert matches(engine) == {(first.id, at_arxiv, 5), (second.id, at_arxiv, 3)}


@pytest.mark.parametrize("days", [119, 121])
@pytest.mark.parametrize("is_preprint_old", [True, False])
def test_united_records_have_no_new_match_if_the_old_one_may_be_deleted(
    engine: Engine, days: int, is_preprint_old: bool
):
    """Whether the preprint or the journal's version was stored first."""
    preprint = make_sighting("3001.00001", title="At arXiv")
    journal = make_sighting(
        None, source="biorxiv", source_id="b1", title="Elsewhere", doi="10.1/x", categories=()
    )
    first, second = (preprint, journal) if is_preprint_old else (journal, preprint)
    ingest(engine, first, now=NOW - timedelta(days=days))
    ingest(engine, second)
    _, new = stored(engine)
    with engine.begin() as conn:
        topic = topics.find_or_add(conn, "a", NOW)
        topics.add_matches(conn, [(make_match(topic, new), 2)])

    unite(engine)

    (paper,) = stored(engine)
    assert matches(engine) == ({(topic.id, paper.id, 2)} if days < 120 else set())


def test_sent_digest_keeps_its_frozen_text_after_records_unite(engine: Engine):
    """The reader counts as having received the work, under either record."""
    at_arxiv, elsewhere = two_records(engine)
    reader = add_subscriber(engine)
    delivery = add_delivery(engine, subscriber_id=reader, status=DeliveryStatus.SENT)
    pick(engine, delivery, elsewhere)

    unite(engine)

    with engine.connect() as conn:
        (frozen,) = digests.load(conn, [delivery])[delivery].picks
        had = digests.sent_before(conn, [reader], since=NOW)
    assert (frozen.paper.id, frozen.paper.title) == (at_arxiv, "Elsewhere")
    assert had == {reader: {at_arxiv}}
    assert [paper.title for paper in stored(engine)] == ["At arXiv"]


@pytest.mark.parametrize(
    ("status", "picks"), [(DeliveryStatus.QUEUED, 1), (DeliveryStatus.SENT, 2)]
)
def test_queued_digest_lists_a_united_work_once(engine: Engine, status: str, picks: int):
    """A sent digest that shows both is kept as it was sent."""
    at_arxiv, elsewhere = two_records(engine)
    delivery = add_delivery(engine, status=status)
    pick(engine, delivery, elsewhere, position=0)
    pick(engine, delivery, at_arxiv, position=1)

    unite(engine)

    with engine.connect() as conn:
        loaded = digests.load(conn, [delivery])[delivery]
    assert [found.paper.id for found in loaded.picks] == [at_arxiv] * picks


def pick(engine: Engine, delivery_id: int, paper_id: int, position: int = 0) -> None:
    with engine.begin() as conn:
        conn.execute(
            insert(PickRow).values(
                delivery_id=delivery_id, position=position, paper_id=paper_id, paper_version=1,
                score=1.0, upvotes=None, comments=None, stars=None,
                reasons=[["retrieval", []]],
            )
        )  # fmt: skip


def test_sent_before_counts_queued_sent_and_uncertain_digests(engine: Engine):
    """Sent, queued or uncertain counts; a delivery that certainly did not arrive does not."""
    store(engine, make_sighting())
    (paper,) = stored(engine)
    reader = add_subscriber(engine)
    delivery = add_delivery(engine, subscriber_id=reader)
    pick(engine, delivery, paper.id)
    counts = set()

    for status in DeliveryStatus:
        with engine.begin() as conn:
            conn.execute(update(DeliveryRow).values(status=status))
            if digests.sent_before(conn, [reader], since=NOW):
                counts.add(status)

    assert counts == {"queued", "leased", "sending", "sent", "uncertain"}


# --- Any order ----------------------------------------------------------------------------------

WORKS = (
    make_sighting("3001.00001", title=TITLE, authors=("Ada Lovelace",), doi="10.1/x"),
    make_sighting("3001.00002", title=TITLE, authors=("Grace Hopper",)),
    make_sighting(None, title="Another", authors=("Ada Lovelace",), doi="10.1/y"),
    make_sighting(None, title="A third", authors=("Grace Hopper",)),
    make_sighting("3001.00003", title="A fourth", authors=("Ada Lovelace",)),
    make_sighting("3001.00004", title="A fourth", authors=("Ada Lovelace",)),
)
"""Some share a title, two of them an author, too, and no source has all the identifiers."""


@st.composite
def announcements_of_works(draw: st.DrawFn) -> list[Sighting]:
    return [
        draw(_announcement(work)) for work in draw(st.lists(st.sampled_from(WORKS), min_size=2))
    ]


@st.composite
def _announcement(draw: st.DrawFn, work: Sighting) -> Sighting:
    hidden = draw(st.sets(st.sampled_from(["arxiv_id", "doi", "authors"])))
    nothing: dict[str, object] = {"arxiv_id": None, "doi": None, "authors": ()}
    return replace(
        work,
        **{name: nothing[name] for name in hidden},
        source=draw(st.sampled_from(["arxiv", "huggingface", "biorxiv", "feed"])),
        source_id=draw(st.sampled_from(["", f"name of {WORKS.index(work)}"])),
        title=draw(st.sampled_from([work.title, work.title.upper()])),
        categories=tuple(draw(st.sets(st.sampled_from(["cs.IR", "cs.LG", "q-bio.NC"])))),
        keywords=tuple(draw(st.sets(st.sampled_from(["agents", "retrieval"])))),
        version=draw(st.sampled_from([None, 1, 2])),
        upvotes=draw(st.none() | st.integers(0, 9)),
    )


@pytest.mark.full
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(announcements=announcements_of_works(), chunk=st.integers(1, 12))
def test_sightings_in_any_order_keep_each_work_separate(
    engine: Engine, announcements: list[Sighting], chunk: int
):
    """Each arXiv id is one paper, and every category and keyword is stored with some paper."""
    empty(engine)
    for batch, start in enumerate(range(0, len(announcements), chunk), start=1):
        store(engine, *announcements[start : start + chunk], batch=batch)

    kept = stored(engine)
    arxiv_ids = {found.arxiv_id for found in map(sightings.with_arxiv_id, announcements)} - {None}
    keys = [paper.key for paper in kept]
    assert sorted(key for key in keys if key.startswith("3001.")) == sorted(arxiv_ids)
    for name in ("categories", "keywords"):
        told = set(chain.from_iterable(getattr(found, name) for found in announcements))
        assert set(chain.from_iterable(getattr(paper, name) for paper in kept)) == told
    assert every_paper_was_sighted(engine)


@pytest.mark.full
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(announcements=announcements_of_works())
def test_storing_the_same_sightings_again_creates_no_paper(
    engine: Engine, announcements: list[Sighting]
):
    """When stored again, records may still unite: later identifiers are known by then."""
    empty(engine)
    store(engine, *announcements)
    store(engine, *announcements, batch=2)
    settled = stored(engine)

    again = store(engine, *announcements, batch=3)

    assert (again.new, again.touched) == (0, 0)
    assert stored(engine) == settled


def every_paper_was_sighted(engine: Engine) -> bool:
    sighted = {row.paper_id for row in rows(engine, SightingRow)}
    with engine.connect() as conn:
        versions = set(conn.execute(select(PaperVersionRow.paper_id)).scalars())
    return sighted == versions == {paper.id for paper in stored(engine)}
