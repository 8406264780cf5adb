"""Digests of readers who reacted: the order changes, and the limits hold."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, update

from pipeline import editions, signup
from pipeline.domain import Breadth, DeliveryStatus, Digest, Liking, Reason, ReasonKind
from pipeline.matching.semantic import text
from pipeline.storage import digests, embeddings
from pipeline.storage.database import read_only
from pipeline.storage.schema import DeliveryRow, PaperVersionRow, ProfileRow
from tests.support.factories import NOW, TODAY, make_sighting
from tests.support.newsroom import add_reader, ingest, rows, stored

DAY = timedelta(days=1)
ON_MOSS = "Retrieval of moss: a retrieval of lichen and ferns on stone walls."
ON_TEA = "Retrieval of tea: a retrieval of leaves, which are dried in the shade."


def announce(engine: Engine, day: int, **abstracts: str) -> None:
    """Ingest a paper for each title, with other authors than all other papers."""
    sightings = [
        make_sighting(
            title=title.replace("_", " "),
            abstract=abstract,
            authors=(f"Author of {title}",),
            announced_on=TODAY + day * DAY,
        )
        for title, abstract in abstracts.items()
    ]
    ingest(engine, *sightings, now=NOW + day * DAY)


def publish(engine: Engine, day: int) -> Digest | None:
    """Send what is queued, publish, and return the new digest."""
    with engine.begin() as conn:
        conn.execute(
            update(DeliveryRow)
            .where(DeliveryRow.status == DeliveryStatus.QUEUED)
            .values(status=DeliveryStatus.SENT, reason="test")
        )
    (outcome,) = editions.publish(
        engine, now=NOW + day * DAY, expiry=timedelta(hours=18), template="1"
    )
    if outcome.skipped:
        return None
    last = rows(engine, DeliveryRow, DeliveryRow.id)[-1]
    with read_only(engine) as conn:
        return digests.load(conn, [last.id])[last.id]


def titles(digest: Digest | None) -> list[str]:
    return [pick.paper.title for pick in digest.picks] if digest else []


def like(engine: Engine, reader: int, *names: str, liking: Liking = Liking.MORE) -> None:
    by_title = {paper.title: paper.key for paper in stored(engine)}
    for name in names:
        signup.like(engine, reader, by_title[name], liking, NOW)


@pytest.fixture
def reader(engine: Engine) -> int:
    """A reader of one topic, with a first day of two papers that match it."""
    older = [
        make_sighting(title=f"Star {n}", abstract="", announced_on=TODAY - 20 * DAY)
        for n in range(30)
    ]
    ingest(engine, *older, now=NOW - 20 * DAY)
    id_ = add_reader(engine, "retrieval", now=NOW - DAY).id
    announce(engine, 0, Moss_first=ON_MOSS, Tea_first=ON_TEA)
    assert set(titles(publish(engine, 0))) == {"Moss first", "Tea first"}
    return id_


@pytest.mark.parametrize("name", ["Moss", "Tea"])
def test_a_like_puts_similar_papers_first_in_the_next_digest_and_says_why(engine, reader, name):
    like(engine, reader, f"{name} first")
    announce(engine, 1, Moss_again=ON_MOSS, Tea_again=ON_TEA)

    digest = publish(engine, 1)

    other = {"Moss": "Tea", "Tea": "Moss"}[name]
    assert titles(digest) == [f"{name} again", f"{other} again"]
    why = {
        reason.label
        for pick in digest.picks
        for reason in pick.reasons
        if reason.kind is ReasonKind.LIKED
    }
    assert why <= {f"{name} first"}


def test_undo_restores_the_order(engine, reader):
    announce(engine, 1, Moss_again=ON_MOSS, Tea_again=ON_TEA)
    usual = titles(publish(engine, 1))
    last = usual[-1].split()[0]
    like(engine, reader, f"{last} first")
    announce(engine, 2, Moss_again_2=ON_MOSS, Tea_again_2=ON_TEA)
    liked = publish(engine, 2)

    like(engine, reader, f"{last} first", liking=Liking.NEITHER)
    announce(engine, 3, Moss_again_3=ON_MOSS, Tea_again_3=ON_TEA)
    undone = publish(engine, 3)

    assert titles(liked)[0].startswith(last)
    assert [(r.label, r.kind) for r in liked.picks[0].reasons][1:] == [
        (f"{last} first", ReasonKind.LIKED)
    ]
    assert [one.split()[0] for one in titles(undone)] == [one.split()[0] for one in usual]
    assert all(len(pick.reasons) == 1 for pick in undone.picks)


def test_a_switched_off_or_damaged_profile_changes_nothing(engine, reader):
    announce(engine, 1, Moss_again=ON_MOSS, Tea_again=ON_TEA)
    usual = [one.split()[0] for one in titles(publish(engine, 1))]
    like(engine, reader, f"{usual[-1]} first")
    signup.configure(engine, reader, NOW, is_on=False)
    announce(engine, 2, Moss_again_2=ON_MOSS, Tea_again_2=ON_TEA)
    assert [one.split()[0] for one in titles(publish(engine, 2))] == usual

    signup.configure(engine, reader, NOW, is_on=True)
    with engine.begin() as conn:
        conn.execute(update(ProfileRow).values(terms=b"damaged"))
    announce(engine, 3, Moss_again_3=ON_MOSS, Tea_again_3=ON_TEA)

    assert [one.split()[0] for one in titles(publish(engine, 3))] == usual


def test_papers_without_stored_terms_keep_their_order(engine, reader):
    like(engine, reader, "Moss first", "Tea first")
    announce(engine, 1, Moss_again=ON_MOSS, Tea_again=ON_TEA)
    with engine.begin() as conn:
        conn.execute(update(PaperVersionRow).values(terms=None))

    assert set(titles(publish(engine, 1))) == {"Moss again", "Tea again"}


def test_an_author_of_a_liked_paper_comes_first_and_is_named(engine, reader):
    like(engine, reader, "Moss first")
    announce(engine, 1, Tea_a=ON_TEA)
    hers = make_sighting(
        title="Tea by her",
        abstract=ON_TEA,
        authors=("Someone Else", "Author of Moss_first"),
        announced_on=TODAY + DAY,
    )
    ingest(engine, hers, now=NOW + DAY)

    first, second = publish(engine, 1).picks

    assert (first.paper.title, second.paper.title) == ("Tea by her", "Tea a")
    assert first.reasons[-1] == Reason("Author of Moss_first", kind=ReasonKind.LIKED_AUTHOR)
    assert ReasonKind.LIKED_AUTHOR not in {reason.kind for reason in second.reasons}


OUTSIDE = "Moss, lichen and ferns on stone walls: how they grow, and who eats them."


def test_papers_outside_the_topics_begin_at_the_fourth_like(engine, reader):
    announce(engine, 1, **{f"Moss_{n}": ON_MOSS for n in "abc"}, Tea_a=ON_TEA)
    publish(engine, 1)
    like(engine, reader, "Moss first", "Moss a", "Moss b")
    announce(engine, 2, Tea_b=ON_TEA, Moss_on_walls=OUTSIDE)
    assert titles(publish(engine, 2)) == ["Tea b"]

    like(engine, reader, "Moss c")
    announce(engine, 3, Tea_c=ON_TEA, Ferns_on_walls=OUTSIDE, Unrelated="Stars shine at night.")
    digest = publish(engine, 3)

    assert titles(digest) == ["Tea c", "Ferns on walls"]
    assert digest.picks[-1].topics == ()
    assert [reason.kind for reason in digest.picks[-1].reasons] == [ReasonKind.LIKED]

    signup.configure(engine, reader, NOW, outside=False)
    announce(engine, 4, Tea_d=ON_TEA, Moss_on_roofs=OUTSIDE)
    assert titles(publish(engine, 4)) == ["Tea d"]


def test_papers_outside_the_topics_are_a_fifth_at_most_and_alone_send_no_mail(engine, reader):
    announce(engine, 1, **{f"Moss_{n}": ON_MOSS for n in "abcd"})
    publish(engine, 1)
    like(engine, reader, *(f"Moss {n}" for n in "abcd"))
    outside = {f"Walls_{n}": OUTSIDE.replace("Moss", f"Moss {n}") for n in "abcdef"}
    announce(engine, 2, **outside)
    assert publish(engine, 2) is None

    announce(engine, 3, Tea_a=ON_TEA, **{f"More_{name}": text for name, text in outside.items()})
    digest = publish(engine, 3)

    assert titles(digest)[0] == "Tea a"
    assert sum(not pick.topics for pick in digest.picks) == 2  # of ten places


def test_every_topic_with_a_match_keeps_a_place(engine):
    reader = add_reader(engine, "retrieval", "stars", now=NOW - DAY, max_papers=2).id
    announce(engine, 0, Moss_first=ON_MOSS)
    publish(engine, 0)
    like(engine, reader, "Moss first")
    announce(engine, 1, Moss_a=ON_MOSS, Moss_b=ON_MOSS, Night="Stars, stars and more stars.")

    digest = publish(engine, 1)

    assert {pick.topics[0].label for pick in digest.picks} == {"retrieval", "stars"}


def test_free_places_go_to_broader_matches_that_the_reader_would_like(engine):
    reader = add_reader(engine, '"moss garden"', now=NOW - DAY, breadth=Breadth.FEWER).id
    broad = "We see a garden. " + "Lichen and ferns live on stone walls. " * 3 + "Also moss."
    far = "We see a garden. " + "Tea leaves are dried in the shade. " * 3 + "Also moss."
    announce(engine, 0, Moss_garden_first=f"A moss garden. {broad}")
    publish(engine, 0)
    like(engine, reader, "Moss garden first")
    announce(engine, 1, Moss_garden_again="A moss garden.", Walls=broad, Shade=far)

    digest = publish(engine, 1)

    assert "Moss garden again" in titles(digest)
    assert "Shade" not in titles(digest)


@pytest.mark.full
def test_broader_matches_displace_no_match_of_the_reader_s_setting(engine):
    topic = {"breadth": Breadth.FEWER, "max_papers": 6}
    reader = add_reader(engine, "retrieval", now=NOW - DAY, **topic).id
    announce(engine, 0, Moss_first=ON_MOSS)
    publish(engine, 0)
    like(engine, reader, "Moss first")
    filler = " ".join(f"word{n}" for n in range(60))
    own = {f"Retrieval_of_tea_{n}": f"{ON_TEA} Cup {n}." for n in range(4)}
    broad = {f"Walls_{n}": f"Moss, lichen and ferns, retrieval. {filler}" for n in range(6)}
    announce(engine, 1, **own, **broad)

    digest = publish(engine, 1)

    assert {title.replace(" ", "_") for title in titles(digest)} >= own.keys()
    assert len(digest.picks) == 6
    assert digest.more == 0


@pytest.mark.full
def test_a_liked_paper_is_not_sent_again(engine, reader):
    like(engine, reader, "Moss first", "Tea first")

    assert publish(engine, 1) is None


@pytest.mark.full
def test_likes_order_the_digests_of_a_list_that_follows_only_trending(engine):
    reader = add_reader(engine, "trending", now=NOW - DAY, max_papers=1).id
    ingest(engine, make_sighting(title="Moss first", abstract=ON_MOSS, upvotes=9), now=NOW)
    publish(engine, 0)
    like(engine, reader, "Moss first")
    day = TODAY + DAY
    ingest(
        engine,
        make_sighting(title="Tea", abstract=ON_TEA, upvotes=10, announced_on=day),
        make_sighting(title="Moss", abstract=ON_MOSS, upvotes=9, announced_on=day),
        now=NOW + DAY,
    )

    assert titles(publish(engine, 1)) == ["Moss"]


@pytest.mark.full
def test_trending_papers_that_give_way_to_one_outside_are_not_counted_as_more(engine):
    reader = add_reader(engine, "trending", now=NOW - DAY, max_papers=5).id
    liked = [make_sighting(title=f"Moss {n}", abstract=ON_MOSS, upvotes=9) for n in range(4)]
    ingest(engine, *liked, now=NOW)
    publish(engine, 0)
    like(engine, reader, *(f"Moss {n}" for n in range(4)))
    day = TODAY + DAY
    top = [
        make_sighting(title=f"Tea {n}", abstract=ON_TEA, upvotes=9, announced_on=day)
        for n in range(8)
    ]
    outside = make_sighting(title="Moss garden", abstract=ON_MOSS, announced_on=day)
    ingest(engine, *top, outside, now=NOW + DAY)

    digest = publish(engine, 1)

    assert titles(digest)[-1] == "Moss garden"
    assert len(digest.picks) == 5
    assert digest.more == 0


@pytest.mark.full
def test_many_matches_do_not_hide_a_liked_paper_outside_the_topics(engine, reader, monkeypatch):
    monkeypatch.setattr("pipeline.editions.profiles.NEAREST", 3)
    announce(engine, 1, **{f"Moss_{n}": ON_MOSS for n in range(4)})
    publish(engine, 1)
    like(engine, reader, *(f"Moss {n}" for n in range(4)))
    announce(engine, 2, **{f"More_moss_{n}": ON_MOSS for n in range(8)}, Walls=OUTSIDE)

    assert titles(publish(engine, 2))[-1] == "Walls"


def embed(engine: Engine, model: str, **vectors: tuple[float, float]) -> None:
    """Store vectors by title."""
    by_title = {paper.title: paper for paper in stored(engine)}
    keys = {title: embeddings.key(text(by_title[title.replace("_", " ")])) for title in vectors}
    with engine.begin() as conn:
        embeddings.store_vectors(
            conn,
            model,
            {keys[title]: np.array(vector, "<f2").tobytes() for title, vector in vectors.items()},
        )


SAME = "Retrieval of sand: a retrieval of grains, which are found on a beach."


@pytest.mark.parametrize("alike", ["Dunes one", "Dunes two"])
def test_of_papers_with_equal_terms_the_one_with_a_vector_like_the_liked_one_is_first(
    engine, reader, alike
):
    embed(engine, "mini", Moss_first=(1, 0), Tea_first=(0, 1))
    like(engine, reader, "Moss first")
    announce(engine, 1, Dunes_one=SAME, Dunes_two=SAME)
    towards = {"Dunes one": (0.0, 1.0), "Dunes two": (0.0, 1.0), alike: (1.0, 0.0)}
    embed(engine, "mini", **towards)

    assert titles(publish(engine, 1))[0] == alike


@pytest.mark.parametrize("damage", ["model", "vector", "profile"])
def test_vectors_of_another_model_and_damaged_ones_change_nothing(engine, reader, damage):
    embed(engine, "mini", Moss_first=(1, 0), Tea_first=(0, 1))
    announce(engine, 1, Dunes_one=SAME, Dunes_two=SAME)
    like(engine, reader, "Moss first")
    model = "other" if damage == "model" else "mini"
    size = 3 if damage == "vector" else 2
    embed(engine, model, **{"Dunes one": (1, 0, 0)[:size], "Dunes two": (0, 1, 0)[:size]})
    if damage == "profile":
        with engine.begin() as conn:
            conn.execute(update(ProfileRow).values(vector=b"x"))

    assert titles(publish(engine, 1)) == ["Dunes two", "Dunes one"]  # the usual order
