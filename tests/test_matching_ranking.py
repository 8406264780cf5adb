from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.domain import Reason
from pipeline.matching.ranking import Candidate, TopicCandidates, pick


def topic(label, *scores, first=1, **fields):
    """Return a topic of papers numbered from `first`, with these scores and distinct titles."""
    papers = enumerate(scores, first)
    return TopicCandidates(
        label,
        [Candidate(paper, score, title=f"number{paper}", **fields) for paper, score in papers],
    )


def picked(*topics, most=10):
    return [one.paper for one in pick(topics, most).picks]


class TestPick:
    def test_picks_are_ordered_by_score(self):
        assert picked(topic("a", 1.0, 3.0, 2.0)) == [2, 3, 1]

    def test_pick_keeps_the_limit_and_counts_the_rest(self):
        selection = pick([topic("a", 3.0, 2.0, 1.0)], 2)

        assert [one.paper for one in selection.picks] == [1, 2]
        assert selection.more == 1

    def test_pick_returns_nothing_without_candidates(self):
        assert pick([], 5).picks == pick([TopicCandidates("a", [])], 5).picks == ()

    def test_topics_with_high_scores_do_not_crowd_out_others(self):
        """Scores can be compared within one topic only."""
        loud = topic("loud", *range(100, 80, -1))
        quiet = topic("quiet", 0.2, 0.1, first=101)

        assert picked(loud, quiet, most=4) == [1, 101, 2, 102]

    def test_paper_counts_towards_every_topic_it_matched(self):
        a = TopicCandidates("a", [Candidate(1, 9.0, title="x"), Candidate(2, 5.0, title="y")])
        b = TopicCandidates("b", [Candidate(1, 9.0, title="x"), Candidate(3, 1.0, title="z")])
        c = TopicCandidates("c", [Candidate(4, 0.5, title="w")])

        assert picked(a, b, c) == [1, 4, 2, 3]

    def test_paper_appears_once_with_all_reasons_best_first(self):
        a = TopicCandidates("a", [Candidate(1, 5.0, ("flows",)), Candidate(2, 10.0, ("flow",))])
        b = TopicCandidates("b", [Candidate(1, 3.0, ("Graph",))])

        picks = {one.paper: one for one in pick([a, b], 9).picks}

        assert picks[1].reasons == (Reason("b", ("Graph",)), Reason("a", ("flows",)))
        assert picks[2].reasons == (Reason("a", ("flow",)),)

    def test_upvotes_change_the_order_only_of_close_scores(self):
        close = [Candidate(1, 10.0, title="x"), Candidate(2, 9.5, title="y", upvotes=200)]
        far = [Candidate(1, 10.0, title="x"), Candidate(2, 5.0, title="y", upvotes=200)]

        assert picked(TopicCandidates("a", close)) == [2, 1]
        assert picked(TopicCandidates("a", far)) == [1, 2]

    @pytest.mark.parametrize(
        ("scores", "upvotes", "picked"),
        [
            ((0.25, 0.5), (None, None), [1.0, 0.5]),  # 1 is the best score of the topic
            ((8.0, 4.0), (3, 15), [1.05, 0.6]),  # logarithms of 4 and 16, at most a tenth
            ((8.0, 4.0), (0, -1), [1.0, 0.5]),
            ((8.0, 8.0), (1, 1), [0.5, 0.25]),  # equal scores: the topic has no words
            ((0.0, 0.0), (None, 1), [0.5, 0.25]),
            ((3.0, 1.0), (None, None), [1.0, 0.333333]),
        ],
    )
    def test_score_is_relative_to_the_best_plus_at_most_a_tenth_for_upvotes(
        self, scores, upvotes, picked
    ):
        papers = [
            Candidate(paper, score, title=f"number{paper}", upvotes=votes)
            for paper, score, votes in zip((1, 2), scores, upvotes, strict=True)
        ]

        assert [one.score for one in pick([TopicCandidates("a", papers)], 2).picks] == picked

    def test_upvotes_are_relative_to_the_candidates_of_all_topics(self):
        one = TopicCandidates("a", [Candidate(1, 1.0, title="x", upvotes=3)])
        other = TopicCandidates("b", [Candidate(2, 1.0, title="y", upvotes=15)])

        assert {each.paper: each.score for each in pick([one, other], 2).picks} == {
            1: 1.05,
            2: 1.1,
        }

    def test_ties_are_ordered_by_id(self):
        scores = {4: 2.0, 3: 1.0, 1: 1.0, 2: 1.0}
        papers = [Candidate(paper, one, title=f"number{paper}") for paper, one in scores.items()]

        assert picked(TopicCandidates("a", papers)) == [4, 1, 2, 3]

    def test_category_is_ordered_by_other_topics_then_upvotes_then_newest(self):
        votes = {1: 0, 2: 9, 3: 0, 4: 0, 5: 99}
        category = TopicCandidates(
            "cs.IR",
            [Candidate(n, 1.0, title=f"number{n}", upvotes=votes[n], day=7) for n in votes],
        )
        words = TopicCandidates(
            "moss",
            [
                Candidate(1, 1.0, title="number1", day=7),
                Candidate(3, 3.0, title="number3", day=7),
            ],
        )

        assert picked(category, words) == [3, 1, 5, 2, 4]
        assert picked(category) == [5, 2, 4, 3, 1]

    def test_category_takes_turns_between_days(self):
        """The newest day comes first; a day with many papers does not fill the digest."""
        days = {1: 5, 2: 5, 3: 6, 4: 6, 5: 6, 6: 6, 7: 7}
        category = TopicCandidates(
            "cs.IR", [Candidate(n, 1.0, title=f"number{n}", day=day) for n, day in days.items()]
        )

        assert picked(category, most=5) == [7, 6, 2, 5, 1]

    def test_match_of_words_is_named_before_a_category(self):
        category = TopicCandidates("cs.IR", [Candidate(1, 1.0), Candidate(2, 1.0, title="x")])
        words = TopicCandidates("moss", [Candidate(1, 1.0, ("moss",)), Candidate(3, 1.5)])

        picks = {one.paper: one for one in pick([category, words], 9).picks}

        assert picks[1].reasons == (Reason("moss", ("moss",)), Reason("cs.IR"))

    def test_near_duplicate_is_picked_last(self):
        papers = [
            Candidate(1, 9.0, title="A Survey of Large Language Model Agents at Work"),
            Candidate(2, 8.0, title="A survey of large language model agents at work v2"),
            Candidate(3, 1.0, title="Something else"),
        ]

        assert picked(TopicCandidates("a", papers), most=2) == [1, 3]
        assert picked(TopicCandidates("a", papers), most=3) == [1, 3, 2]

    @pytest.mark.parametrize(
        ("title", "order"),
        [
            ("moss fern lichen quartz heron", [1, 3, 2]),  # 4 of 5 words in common
            ("moss fern lichen quartz heron of the", [1, 3, 2]),
            ("moss fern lichen quartz heron otter", [1, 2, 3]),
            ("moss fern lichen heron", [1, 2, 3]),
        ],
    )
    def test_titles_sharing_four_fifths_of_words_are_near_duplicates(self, title, order):
        papers = [
            Candidate(1, 9.0, title="moss fern lichen quartz"),
            Candidate(2, 8.0, title=title),
            Candidate(3, 1.0, title="Something else"),
        ]

        assert picked(TopicCandidates("a", papers)) == order

    def test_equal_titles_are_picked_once(self):
        papers = [
            Candidate(1, 9.0, title="Graphs at Work"),
            Candidate(2, 8.0, title="graphs at work"),
        ]

        selection = pick([TopicCandidates("a", papers)], 9)

        assert [one.paper for one in selection.picks] == [1]
        assert selection.more == 1

    @pytest.mark.parametrize(
        "titles",
        [
            ("Trees from Moss", "Moss from Trees"),
            ("Learning to Prune", "Pruning to Learn"),
            ("Mossy Tree Graphs", "Mossy Trees Graph"),
        ],
    )
    def test_titles_of_the_same_words_are_near_duplicates(self, titles):
        papers = [Candidate(1, 9.0, title=titles[0]), Candidate(2, 8.0, title=titles[1])]
        papers.append(Candidate(3, 1.0, title="Something else"))

        assert picked(TopicCandidates("a", papers), most=2) == [1, 3]
        assert picked(TopicCandidates("a", papers), most=3) == [1, 3, 2]

    def test_papers_without_a_title_are_not_duplicates(self):
        assert picked(TopicCandidates("a", [Candidate(1, 2.0), Candidate(2, 1.0)])) == [1, 2]


candidates = st.builds(
    Candidate,
    paper=st.integers(1, 12),
    score=st.floats(0, 100),
    title=st.sampled_from(["", "one", "two", "three four", "four three"]),
    upvotes=st.none() | st.integers(0, 500),
)
topics = st.lists(
    st.builds(
        TopicCandidates,
        label=st.sampled_from("abcdef"),
        candidates=st.lists(candidates, max_size=8, unique_by=lambda one: one.paper),
    ),
    max_size=4,
    unique_by=lambda one: one.label,
)


@pytest.mark.full
@given(topics, st.integers(-1, 8), st.randoms())
def test_picks_are_unique_limited_counted_and_independent_of_input_order(some, most, chance):
    """No paper twice, never too many, all counted, and the order of candidates has no effect."""
    selection = pick(some, most)
    shuffled = [
        TopicCandidates(one.label, chance.sample(list(one.candidates), len(one.candidates)))
        for one in some
    ]
    papers = [one.paper for one in selection.picks]

    assert len(set(papers)) == len(papers) <= max(0, most)
    assert len(papers) + selection.more == len({c.paper for one in some for c in one.candidates})
    for one in selection.picks:
        matched = {each.label for each in some if one.paper in {c.paper for c in each.candidates}}
        assert {reason.label for reason in one.reasons} == matched
        assert len(one.reasons) == len(matched)
    if all(
        len({c.title for t in some for c in t.candidates if c.paper == n}) < 2 for n in range(13)
    ):
        assert pick(shuffled, most) == selection


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(1, 20))
def test_disjoint_topics_get_equal_shares(sizes, most):
    some = [
        topic(str(number), *range(size, 0, -1), first=100 * number)
        for number, size in enumerate(sizes, 1)
    ]

    papers = [one.paper for one in pick(some, most).picks]

    shares = [
        sum(paper // 100 == number for paper in papers) for number in range(1, len(sizes) + 1)
    ]
    assert len(papers) == min(most, sum(sizes))
    for share, size in zip(shares, sizes, strict=True):
        assert share == size or share >= max(shares) - 1
