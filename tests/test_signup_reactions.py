"""Reactions to papers: stored once, undone, and learned from in the same transaction."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy import Engine, update

from pipeline import signup
from pipeline.domain import Liking
from pipeline.errors import NotFoundError
from pipeline.matching.profile import Profile
from pipeline.matching.semantic import ProfileVector, text
from pipeline.storage import embeddings, reactions
from pipeline.storage.database import read_only
from pipeline.storage.schema import ProfileRow, ReactionRow
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import add_reader, count, ingest, rows, stored

MOSS = "We grow moss on old stone walls."
TEA = "We dry tea leaves in the shade."


@pytest.fixture
def reader(engine: Engine) -> int:
    ingest(
        engine,
        make_sighting(title="Moss walls", abstract=MOSS, authors=("Ada Lovelace",)),
        make_sighting(title="Tea leaves", abstract=TEA, authors=("Carl Gauss",)),
    )
    return add_reader(engine, "moss").id


def keys(engine: Engine) -> list[str]:
    return [paper.key for paper in stored(engine)]


def names(learned: tuple[signup.Learned, ...]) -> set[str]:
    return {one.name for one in learned}


def test_a_like_teaches_terms_and_authors_and_a_dislike_terms_only(engine, reader):
    moss, tea = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW)
    signup.like(engine, reader, tea, Liking.LESS, NOW)

    found = signup.interests(engine, reader)

    assert found.profile.likes == 1
    assert "moss walls" in names(found.more) | {"moss walls"}
    assert any("moss" in name for name in names(found.more))
    assert any("tea" in name or "leaves" in name for name in names(found.less))
    assert names(found.authors) == {"Ada Lovelace"}
    assert found.more[0].titles == ("Moss walls",)


def test_a_second_reaction_replaces_the_first_and_undo_leaves_nothing(engine, reader):
    moss, _ = keys(engine)
    for liking in (Liking.MORE, Liking.MORE, Liking.LESS):
        signup.like(engine, reader, moss, liking, NOW)
    assert [row.liking for row in rows(engine, ReactionRow)] == [Liking.LESS]

    signup.like(engine, reader, moss, Liking.NEITHER, NOW)

    assert count(engine, ReactionRow) == 0
    with read_only(engine) as conn:
        assert reactions.profiles_in_use(conn, [reader]) == {}


def test_undo_keeps_a_saved_paper_and_its_note(engine, reader):
    moss, _ = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW)
    signup.annotate(engine, reader, moss, "  read\non the train ", NOW)

    signup.like(engine, reader, moss, Liking.NEITHER, NOW)

    (saved,) = signup.interests(engine, reader).saved
    assert (saved.note, saved.liking) == ("read on the train", Liking.NEITHER)


def test_many_saved_papers_do_not_crowd_out_likes(engine, reader, monkeypatch):
    monkeypatch.setattr("pipeline.signup.reactions.LEARNED_FROM", 1)
    moss, tea = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW)

    signup.save(engine, reader, tea, NOW + timedelta(days=1))

    assert signup.interests(engine, reader).profile.likes == 1


def test_saving_alone_teaches_nothing(engine, reader):
    signup.save(engine, reader, keys(engine)[0], NOW)

    found = signup.interests(engine, reader)

    assert (found.profile.likes, found.more, found.authors) == (0, (), ())


def test_a_removed_term_stays_removed_after_the_next_like(engine, reader):
    moss, tea = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW)
    first = signup.interests(engine, reader)
    for one in (*first.more, *first.authors):
        signup.forget(engine, reader, one.id, NOW)

    signup.like(engine, reader, tea, Liking.MORE, NOW)

    found = signup.interests(engine, reader)
    assert names(found.authors) == {"Carl Gauss"}
    assert not names(first.more) & names(found.more)


def test_reset_forgets_likes_and_keeps_saved_papers_and_switches(engine, reader):
    moss, tea = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW)
    signup.save(engine, reader, moss, NOW)
    signup.like(engine, reader, tea, Liking.LESS, NOW)
    signup.configure(engine, reader, NOW, outside=False)
    signup.mail_weekly(engine, reader, NOW, wanted=True)

    signup.reset(engine, reader, NOW)

    found = signup.interests(engine, reader)
    assert (found.judged, [one.title for one in found.saved]) == ((), ["Moss walls"])
    assert (found.profile.likes, found.profile.outside, found.profile.is_on) == (0, False, True)
    assert found.profile.saved_weekly
    assert found.more == ()


def test_a_profile_that_is_switched_off_is_not_used(engine, reader):
    signup.like(engine, reader, keys(engine)[0], Liking.MORE, NOW)
    with read_only(engine) as conn:
        assert reader in reactions.profiles_in_use(conn, [reader])

    signup.configure(engine, reader, NOW, is_on=False)

    with read_only(engine) as conn:
        assert reactions.profiles_in_use(conn, [reader]) == {}


def test_unknown_papers_and_readers_who_left_are_refused(engine, reader):
    moss, _ = keys(engine)
    with pytest.raises(NotFoundError):
        signup.like(engine, reader, "3001.99999", Liking.MORE, NOW)
    with pytest.raises(NotFoundError):
        signup.like(engine, reader + 1, moss, Liking.MORE, NOW)
    secret = signup.find(engine, "ada@example.org")[0].secret
    signup.leave(engine, secret, NOW)

    with pytest.raises(NotFoundError):
        signup.like(engine, reader, moss, Liking.MORE, NOW)
    assert count(engine, ReactionRow) == count(engine, ProfileRow) == 0


def test_a_paper_found_under_another_key_has_one_reaction(engine, reader):
    """A paper known by its title gains an arXiv id; then two papers turn out to be one."""
    titled = make_sighting(None, source="feed", title="Ferns in pots", authors=("Emmy Noether",))
    ingest(engine, titled)
    old = stored(engine)[-1].key
    signup.like(engine, reader, old, Liking.MORE, NOW)
    ingest(engine, make_sighting(title="Ferns in pots", authors=("Emmy Noether",)))
    new = stored(engine)[-1].key
    assert old != new

    signup.like(engine, reader, new, Liking.LESS, NOW)

    assert [row.liking for row in rows(engine, ReactionRow)] == [Liking.LESS]


@pytest.mark.full
def test_reactions_at_the_same_time_are_all_in_the_profile(engine, reader):
    ingest(engine, *(make_sighting(title=f"Moss {n}", abstract=MOSS) for n in range(8)))
    some = keys(engine)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: signup.like(engine, reader, key, Liking.MORE, NOW), some))

    (row,) = rows(engine, ProfileRow)
    assert row.likes == len(some) == count(engine, ReactionRow)
    assert Profile.load(row.terms, row.authors).weight_of("moss") > 0


def test_older_likes_count_less(engine, reader):
    moss, tea = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW - timedelta(days=720))
    signup.like(engine, reader, tea, Liking.MORE, NOW)

    (row,) = rows(engine, ProfileRow)
    learned = Profile.load(row.terms, row.authors)
    assert 0 < 4 * learned.weight_of("moss") < learned.weight_of("tea")


def test_papers_saved_later_do_not_displace_likes(engine, reader, monkeypatch):
    monkeypatch.setattr("pipeline.signup.reactions.LEARNED_FROM", 1)
    moss, tea = keys(engine)
    signup.like(engine, reader, moss, Liking.MORE, NOW)

    signup.save(engine, reader, tea, NOW + timedelta(hours=1))

    assert signup.interests(engine, reader).profile.likes == 1


def test_reactions_to_papers_that_were_merged_become_one_without_loss(engine, reader):
    moss, tea = stored(engine)
    signup.annotate(engine, reader, moss.key, "for the talk", NOW)
    signup.like(engine, reader, tea.key, Liking.MORE, NOW + timedelta(hours=1))
    with engine.begin() as conn:  # as an ingest run does that merges the two
        conn.execute(update(ReactionRow).values(paper_id=moss.id))

    signup.like(engine, reader, moss.key, Liking.NEITHER, NOW + timedelta(hours=2))

    (left,) = rows(engine, ReactionRow)
    assert (left.note, left.liking) == ("for the talk", Liking.NEITHER)
    assert left.saved_at is not None


def test_removing_what_was_not_learned_stores_nothing(engine, reader):
    signup.like(engine, reader, keys(engine)[0], Liking.MORE, NOW)

    for n in range(3):
        signup.forget(engine, reader, f"never learned {n}", NOW)

    assert rows(engine, ProfileRow)[0].removed == []


# --- The vector of a semantic model -------------------------------------------------------------


def embed(engine: Engine, model: str, **vectors: list[float]) -> None:
    """Store vectors by the first word of the titles."""
    by_word = {paper.title.split()[0]: paper for paper in stored(engine)}
    with engine.begin() as conn:
        embeddings.store_vectors(
            conn,
            model,
            {
                embeddings.key(text(by_word[word])): np.array(vector, "<f2").tobytes()
                for word, vector in vectors.items()
            },
        )


def vector_of(engine: Engine, reader: int) -> tuple[str, list[float]]:
    with read_only(engine) as conn:
        found = reactions.profile_of(conn, reader)
    vector = ProfileVector.load(found.vector).direction.tolist() if found.vector else []
    return found.vector_model, vector


def test_a_like_learns_the_stored_vector_and_undo_forgets_it(engine, reader):
    moss, _ = keys(engine)
    embed(engine, "mini", Moss=[1, 0], Tea=[0, 1])

    signup.like(engine, reader, moss, Liking.MORE, NOW)

    model, (to_moss, to_tea) = vector_of(engine, reader)
    assert model == "mini"
    assert to_moss > 0 > to_tea
    signup.like(engine, reader, moss, Liking.NEITHER, NOW)
    assert vector_of(engine, reader) == ("", [])


def test_without_stored_vectors_of_liked_papers_a_profile_has_terms_only(engine, reader):
    moss, _ = keys(engine)
    embed(engine, "mini", Tea=[0, 1])

    signup.like(engine, reader, moss, Liking.MORE, NOW)

    assert vector_of(engine, reader) == ("", [])
    assert signup.interests(engine, reader).more


def test_the_model_that_embedded_most_of_the_newest_papers_is_used(engine, reader):
    moss, tea = keys(engine)
    embed(engine, "former", Moss=[1, 0])
    embed(engine, "current", Moss=[1, 0, 0], Tea=[0, 1, 0])
    signup.like(engine, reader, moss, Liking.MORE, NOW)

    signup.like(engine, reader, tea, Liking.MORE, NOW)

    assert vector_of(engine, reader)[0] == "current"


def test_reset_deletes_the_vector(engine, reader):
    embed(engine, "mini", Moss=[1, 0])
    signup.like(engine, reader, keys(engine)[0], Liking.MORE, NOW)
    assert vector_of(engine, reader)[0]

    signup.reset(engine, reader, NOW)

    assert vector_of(engine, reader) == ("", [])


def test_a_paper_with_a_removed_term_takes_no_part_in_the_vector(engine, reader):
    moss, tea = keys(engine)
    embed(engine, "mini", Moss=[1, 0], Tea=[0, 1])
    for key in (moss, tea):
        signup.like(engine, reader, key, Liking.MORE, NOW)
    before = vector_of(engine, reader)[1]

    signup.forget(engine, reader, "moss", NOW)

    assert vector_of(engine, reader)[1][0] < before[0]
    assert vector_of(engine, reader)[1][1] > before[1]


def test_damaged_vectors_take_no_part(engine, reader):
    moss, tea = keys(engine)
    embed(engine, "mini", Moss=[1, 0], Tea=[float("nan"), 0])

    for key in (moss, tea):
        signup.like(engine, reader, key, Liking.MORE, NOW)

    assert vector_of(engine, reader)[1] == pytest.approx([1 - 0.8, 0], abs=1e-3)
