"""Papers that a reader brings: linked, stored once with their profile, never before the POST."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import Engine

from pipeline import signup
from pipeline.domain import Liking
from pipeline.errors import NotFoundError
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.query import parse_topic
from pipeline.references import parse
from pipeline.signup import Choices, OwnPapers, own_papers
from pipeline.storage.database import read_only
from pipeline.storage.reactions import Reaction
from pipeline.storage.schema import ProfileRow, ReactionRow, RequestRow, TopicRow
from tests.support.factories import KEY, NOW, make_sighting
from tests.support.newsroom import add_reader, count, ingest, rows, stored

ADA = "ada@example.org"
MOSS = """
@article{a, title={Moss walls}, author={Ada Lovelace}, abstract={We grow moss.}, year=2024}
@article{b, title={Moss roofs}, author={Ada Lovelace and Carl Gauss}, year=2029}
"""


def brought(engine: Engine, text: str = MOSS) -> OwnPapers:
    with read_only(engine) as conn:
        return signup.read_papers(conn, parse(text).entries, CorpusStatistics(), NOW)


def request(engine: Engine, papers: tuple[Reaction, ...], email: str = ADA) -> int:
    choices = Choices((parse_topic("moss"),), papers=papers)
    signup.request_subscription(engine, email, choices, ip=None, suppression_key=KEY, now=NOW)
    return int(rows(engine, RequestRow, RequestRow.id)[-1].id)


def titles(engine: Engine) -> list[str]:
    return sorted(row.content["title"] for row in rows(engine, ReactionRow))


def test_papers_are_read_newest_first_and_nothing_is_stored(engine):
    found = brought(engine)

    assert [one.title for one in found.reactions] == ["Moss roofs", "Moss walls"]
    assert [one.is_own for one in found.reactions] == [True, True]
    assert [one.title for one in found.texts] == ["Moss roofs", "Moss walls"]
    assert count(engine, ReactionRow) == 0


def test_papers_of_the_archive_are_linked_by_id_doi_and_title(engine):
    ingest(
        engine,
        make_sighting("2401.00001", title="By id"),
        make_sighting(None, source="feed", doi="10.1000/x", title="By DOI"),
        make_sighting("2401.00003", title="Moss Walls", authors=("A. Lovelace",)),
        make_sighting("2401.00004", title="Moss roofs", authors=("Somebody Else",)),
    )
    found = brought(engine, f"arXiv:2401.00001v2\n10.1000/x\n{MOSS}\n2401.99999")

    linked = {one.title: one.key for one in found.reactions if one.paper_id}
    assert linked == {"By id": "2401.00001", "By DOI": "doi:10.1000/x", "Moss Walls": "2401.00003"}
    assert [one.title for one in found.reactions if not one.paper_id] == ["Moss roofs"]
    assert found.unknown == 1


def test_a_paper_given_twice_is_one(engine):
    ingest(engine, make_sighting("2401.00001", title="Moss walls", authors=("Ada Lovelace",)))

    found = brought(engine, f"2401.00001\n{MOSS}")

    assert len(found.reactions) == 2


def test_confirmation_stores_the_papers_with_their_profile(engine):
    id_ = request(engine, brought(engine).requested)
    assert count(engine, ReactionRow) == count(engine, ProfileRow) == 0

    subscriber = signup.confirm(engine, id_, NOW).subscriber

    found = signup.interests(engine, subscriber.id)
    assert titles(engine) == ["Moss roofs", "Moss walls"]
    assert {one.liking for one in found.judged} == {Liking.MORE}
    assert all(one.is_own for one in found.judged)
    assert found.profile.likes == 2
    assert any("moss" in one.name for one in found.more)
    assert {one.name for one in found.authors} == {"Ada Lovelace", "Carl Gauss"}


def test_a_second_confirmation_changes_nothing(engine):
    id_ = request(engine, brought(engine).requested)
    signup.confirm(engine, id_, NOW)
    before = rows(engine, ReactionRow), rows(engine, ProfileRow)

    signup.confirm(engine, id_, NOW)

    assert (rows(engine, ReactionRow), rows(engine, ProfileRow)) == before


def test_the_same_papers_in_a_second_request_change_nothing(engine):
    signup.confirm(engine, request(engine, brought(engine).requested), NOW)
    before = rows(engine, ReactionRow), rows(engine, ProfileRow)

    signup.confirm(engine, request(engine, brought(engine).requested), NOW)

    assert (rows(engine, ReactionRow), rows(engine, ProfileRow)) == before


def test_a_request_for_a_reader_changes_no_profile_until_it_is_confirmed(engine):
    signup.confirm(engine, request(engine, brought(engine).requested), NOW)
    before = rows(engine, ReactionRow), rows(engine, ProfileRow)

    id_ = request(engine, brought(engine, "A treatise on tea and kettles").requested)
    assert (rows(engine, ReactionRow), rows(engine, ProfileRow)) == before

    signup.confirm(engine, id_, NOW)
    assert titles(engine) == ["A treatise on tea and kettles", "Moss roofs", "Moss walls"]


def test_a_paper_that_arrived_since_the_request_is_linked(engine):
    id_ = request(engine, brought(engine, "@misc{a, title={Moss}, eprint={2401.00001}}").requested)
    ingest(engine, make_sighting("2401.00001", title="Moss"))

    signup.confirm(engine, id_, NOW)

    assert [row.paper_id for row in rows(engine, ReactionRow)] == [stored(engine)[0].id]


def test_a_disliked_paper_stays_disliked_and_a_liked_or_saved_one_becomes_own(engine):
    names = ("2401.00001", "2401.00002", "2401.00003")
    ingest(engine, *(make_sighting(name, title=f"Moss {name}") for name in names))
    reader = add_reader(engine, "moss").id
    signup.like(engine, reader, names[0], Liking.LESS, NOW)
    signup.like(engine, reader, names[1], Liking.MORE, NOW)
    signup.annotate(engine, reader, names[2], "read", NOW)

    added = signup.start_from(engine, reader, brought(engine, "\n".join(names)).reactions, (), NOW)

    found = {row.paper_key: row for row in rows(engine, ReactionRow)}
    assert added == 2
    assert [(found[n].liking, found[n].is_own) for n in names] == [
        (-1, False),
        (1, True),
        (1, True),
    ]
    assert found[names[2]].note == "read"


def test_papers_and_topics_are_stored_together_and_once(engine):
    reader = add_reader(engine, "moss").id
    own, new = brought(engine).reactions, (parse_topic("moss walls"), parse_topic("moss"))

    assert signup.start_from(engine, reader, own, new, NOW) == 2
    assert signup.start_from(engine, reader, own, new, NOW) == 0

    assert sorted(row.query for row in rows(engine, TopicRow)) == ["moss", "moss walls"]
    assert count(engine, ReactionRow) == 2


def test_own_papers_are_limited(engine, monkeypatch):
    monkeypatch.setattr(own_papers, "MOST_OWN", 3)
    reader = add_reader(engine, "moss").id
    signup.start_from(engine, reader, brought(engine).reactions, (), NOW)

    more = "\n".join(f"A treatise on subject {n}" for n in range(5))

    assert signup.start_from(engine, reader, brought(engine, more).reactions, (), NOW) == 1
    assert count(engine, ReactionRow) == 3


def test_removed_paper_leaves_nothing_behind(engine):
    reader = add_reader(engine, "moss").id
    own = brought(engine).reactions
    signup.start_from(engine, reader, own, (), NOW)

    for one in (*own, *own):
        signup.remove_paper(engine, reader, one.key, NOW)

    assert count(engine, ReactionRow) == 0
    assert signup.interests(engine, reader).profile.likes == 0


def test_unsubscribed_reader_cannot_add_papers(engine):
    reader = add_reader(engine, "moss")
    signup.leave(engine, reader.secret, NOW)

    with pytest.raises(NotFoundError):
        signup.start_from(engine, reader.id, brought(engine).reactions, (), NOW)


def test_request_is_small_whatever_the_papers_are(engine):
    huge = "\n".join(
        f"@misc{{k{n}, title={{{n} {'语' * 300}}}, author={{{' and '.join(['Ä' * 95] * 11)}}},"
        f" abstract={{{'moss ' * 50}}}}}"
        for n in range(140)
    )
    usual = "\n".join(
        f"@misc{{k{n}, title={{Moss {n} and walls}}, author={{Ada Lovelace and Carl Gauss}},"
        f" abstract={{{' '.join(f'word{n * w} stone{w}' for w in range(120))}}}}}"
        for n in range(140)
    )

    for text, least in ((huge, 10), (usual, 90)):
        found = brought(engine, text)
        request(engine, found.requested, f"{least}@example.org")
        stored_ = rows(engine, RequestRow, RequestRow.id)[-1].choices["papers"]
        assert len(found.reactions) > 100
        assert least <= len(stored_) <= 100
        assert len(json.dumps(stored_)) <= 155_000


def test_request_keeps_ten_authors_and_the_last(engine):
    names = [f"Ada Number{n}" for n in range(40)]
    (one,) = brought(
        engine, f"@misc{{a, title={{Moss}}, author={{{' and '.join(names)}}}}}"
    ).requested

    assert one.authors == (*names[:10], names[-1])


def test_export_has_the_papers_of_a_request_without_vectors(engine):
    signup.confirm(engine, request(engine, brought(engine).requested), NOW)

    (asked,) = signup.export_of(engine, ADA)["requests"]

    assert [one["title"] for one in asked["choices"]["papers"]] == ["Moss roofs", "Moss walls"]
    assert not any("terms" in one for one in asked["choices"]["papers"])


def test_erasure_removes_the_papers_of_requests_and_readers(engine):
    signup.confirm(engine, request(engine, brought(engine).requested), NOW)

    signup.erase(engine, ADA)

    assert [row.choices for row in rows(engine, RequestRow)] == [{}]
    assert count(engine, ReactionRow) == count(engine, ProfileRow) == 0
