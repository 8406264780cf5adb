"""A reader's pages for one paper (more like this, less, save) and for what was learned."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from pipeline import signup
from pipeline.domain import Liking, Paper, SubscriberStatus
from pipeline.matching import profile
from pipeline.matching.corpus import CorpusStatistics
from pipeline.matching.people import suggested_people
from pipeline.rendering import formatting, views
from pipeline.signup.reactions import Interests
from pipeline.storage.reactions import Reaction
from pipeline.translations import gettext, gettext_noop
from pipeline.web.account.text import now
from pipeline.web.dependencies import READ, CPUBudget, Form, LiveIndex, Pages, Services
from pipeline.web.papers import authors
from pipeline.web.papers.search_index import SearchIndex
from pipeline.web.papers.views import author_path, path_of

ROOM: Final = views.Room(abstract=380, phrases=0, links=3)
TERMS: Final = 4  # named as what a paper is about
AUTHORS: Final = 3
BECAUSE: Final = 3  # liked papers named as the reason
PEOPLE: Final = 8  # authors suggested to follow
LIKINGS: Final = {"more": Liking.MORE, "less": Liking.LESS, "undo": Liking.NEITHER}
DONE: Final = {
    "more": gettext_noop("Noted. From your next digest on, papers like this come first."),
    "less": gettext_noop("Noted. From your next digest on, papers like this come last."),
    "undo": gettext_noop("Undone. This paper no longer changes your digests."),
    "save": gettext_noop("Saved to your list."),
    "unsave": gettext_noop("Removed from your list."),
    "note": gettext_noop("Your note is saved."),
    "on": gettext_noop("Your reactions change your digests again."),
    "off": gettext_noop("Your reactions no longer change your digests."),
    "own": gettext_noop("Saved. From your next digest on, papers like yours come first."),
    "removed": gettext_noop("Removed. It no longer changes your digests."),
    "reset": gettext_noop("Your digests have forgotten what you liked. Saved papers were kept."),
}


@dataclass(frozen=True, slots=True)
class ShownTerm:
    """A term or an author that was learned, and why."""

    id: str
    name: str
    because: str  # titles of liked papers


@dataclass(frozen=True, slots=True)
class ShownInterests:
    """What was learned, as the pages show it."""

    is_on: bool
    outside: bool
    likes: int
    more: tuple[ShownTerm, ...]
    less: tuple[ShownTerm, ...]
    authors: tuple[ShownTerm, ...]
    saved: int
    liked: tuple[tuple[str, str], ...]  # title and key of the newest liked papers
    disliked: tuple[tuple[str, str], ...]
    own: tuple[tuple[str, str, str], ...]  # title, key, and path if the archive has the paper

    @property
    def is_empty(self) -> bool:
        return not (self.liked or self.disliked or self.own)


router = APIRouter()


@router.api_route("/preferences/{token}/papers/{key:path}", methods=READ)
def show_reaction(
    token: str,
    key: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    do: str = "",
    done: str = "",
) -> Response:
    """Show a paper, what a reaction to it would change, and a button for each.

    `do` is "more", "less" or "save": its button comes first. Nothing is stored.
    """
    subscriber_id = services.links.read_preferences(token, now())
    if elsewhere := _elsewhere(services, token, subscriber_id):
        return elsewhere
    paper, reaction = signup.reaction_to(services.engine, subscriber_id, key)
    search_index = live_index.ready()
    corpus = search_index.corpus if search_index else CorpusStatistics()
    return pages.show(
        "reaction.html",
        token=token,
        paper=views.card(paper, (), pages.branding, ROOM),
        address=f"/preferences/{token}{path_of(paper.key)}",
        public=path_of(paper.key),
        liking=reaction.liking.name.lower() if reaction else "neither",
        reaction=reaction,
        do=do if do in {"more", "less", "save"} else "",
        done=gettext(DONE[done]) if done in DONE else "",
        about=_about(paper, corpus),
        authors=formatting.listed([formatting.clean(name) for name in paper.authors[:AUTHORS]]),
        people=_leading(paper),
        is_on=signup.is_learning(services.engine, subscriber_id),
        personal=True,
    )


@router.post("/preferences/{token}/papers/{key:path}")
def react(
    token: str, key: str, form: Form, services: Services, pages: Pages, live_index: LiveIndex
) -> Response:
    """Store a reaction: `do` is "more", "less", "undo", "save", "unsave" or "note"."""
    subscriber_id = services.links.read_preferences(token, now())
    if elsewhere := _elsewhere(services, token, subscriber_id):
        return elsewhere
    do = form.get("do", "")
    search_index = live_index.ready()
    corpus = search_index.corpus if search_index else None
    engine = services.engine
    if do in LIKINGS:
        signup.like(engine, subscriber_id, key, LIKINGS[do], now(), corpus)
    elif do in {"save", "unsave"}:
        signup.save(engine, subscriber_id, key, now(), corpus, saved=do == "save")
    elif do == "note":
        signup.annotate(engine, subscriber_id, key, form.get("note", ""), now())
    else:
        return pages.message(gettext("Invalid request"), "", status=422, personal=True)
    paper, _ = signup.reaction_to(engine, subscriber_id, key)
    return RedirectResponse(f"/preferences/{token}{path_of(paper.key)}?done={do}", 303)


@router.api_route("/preferences/{token}/interests", methods=READ)
def show_interests(
    request: Request,
    token: str,
    services: Services,
    pages: Pages,
    live_index: LiveIndex,
    budget: CPUBudget,
    done: str = "",
) -> Response:
    """Show what was learned from reactions, with buttons to remove, switch off and reset it.

    Also authors to follow, if the search index is built and the rate limit allows.
    """
    subscriber_id = services.links.read_preferences(token, now())
    if elsewhere := _elsewhere(services, token, subscriber_id):
        return elsewhere
    known = signup.interests(services.engine, subscriber_id)
    people: list[tuple[str, str]] = []
    search_index = live_index.ready()
    if search_index is not None and budget.allows(request):
        with budget.charged(request):
            topics = signup.choices_of(services.engine, subscriber_id).topics
            people = _people(search_index, known, {query for query, _ in topics})
    return pages.show(
        "interests.html",
        token=token,
        done=gettext(DONE[done]) if done in DONE else "",
        interests=shown(known),
        people=people,
        personal=True,
    )


def _people(
    search_index: SearchIndex, known: Interests, followed: Collection[str]
) -> list[tuple[str, str]]:
    """Return authors of liked and saved papers who are not followed: name, papers a month."""
    liked = [one for one in known.judged if one.liking is Liking.MORE]
    chosen = {one.key: one for one in (*liked, *known.saved)}
    found = suggested_people(list(chosen.values()), partial(authors.a_month, search_index))
    return [
        (formatting.clean(one.name), authors.pace_of(search_index, one.topic))
        for one in found
        if one.topic.text not in followed
    ][:PEOPLE]


@router.post("/preferences/{token}/interests")
def change_interests(token: str, form: Form, services: Services, pages: Pages) -> Response:
    """Change what was learned.

    `do` is "on", "off", "outside", "inside", "reset", "remove" or "remove-paper".
    """
    subscriber_id = services.links.read_preferences(token, now())
    if elsewhere := _elsewhere(services, token, subscriber_id):
        return elsewhere
    engine, do = services.engine, form.get("do", "")
    done = do
    match do:
        case "on" | "off":
            signup.configure(engine, subscriber_id, now(), is_on=do == "on")
        case "outside" | "inside":
            signup.configure(engine, subscriber_id, now(), outside=do == "outside")
            done = ""
        case "reset":
            signup.reset(engine, subscriber_id, now())
        case "remove":
            signup.forget(engine, subscriber_id, form.get("term", "")[:200], now())
            done = "removed"
        case "remove-paper":
            signup.remove_paper(engine, subscriber_id, form.get("paper", ""), now())
            done = "removed"
        case _:
            return pages.message(gettext("Invalid request"), "", status=422, personal=True)
    return RedirectResponse(f"/preferences/{token}/interests?done={done}", 303)


def shown(interests: Interests) -> ShownInterests:
    """Return what was learned, as the pages show it."""
    return ShownInterests(
        is_on=interests.profile.is_on,
        outside=interests.profile.outside,
        likes=interests.profile.likes,
        more=_terms(interests.more),
        less=_terms(interests.less),
        authors=_terms(interests.authors),
        saved=interests.saved_count,
        liked=_papers(interests.judged, Liking.MORE),
        disliked=_papers(interests.judged, Liking.LESS),
        own=tuple(
            (formatting.clean(one.title), one.key, path_of(one.key) if one.paper_id else "")
            for one in interests.judged
            if one.is_own
        ),
    )


def _elsewhere(services: Services, token: str, subscriber_id: int) -> Response | None:
    """Return a redirect to the preferences if the reader has unsubscribed: they say so."""
    subscriber = signup.choices_of(services.engine, subscriber_id).subscriber
    if subscriber.status is SubscriberStatus.ACTIVE:
        return None
    return RedirectResponse(f"/preferences/{token}", 303)


def _terms(learned: tuple[signup.Learned, ...]) -> tuple[ShownTerm, ...]:
    return tuple(
        ShownTerm(
            one.id,
            formatting.clean(one.name),
            formatting.listed(
                [
                    f"“{formatting.cut_at_word(formatting.clean(t), 60)}”"
                    for t in one.titles[:BECAUSE]
                ]
            ),
        )
        for one in learned
    )


def _papers(reactions: tuple[Reaction, ...], liking: Liking) -> tuple[tuple[str, str], ...]:
    return tuple(
        (formatting.clean(one.title), path_of(one.key))
        for one in reactions
        if one.liking is liking and one.paper_id and not one.is_own
    )


def _leading(paper: Paper) -> list[str]:
    """Return the first authors and the last one, who can be followed."""
    names = dict.fromkeys((*paper.authors[:AUTHORS], *paper.authors[-1:]))
    return [name for name in map(formatting.clean, names) if author_path(name)]


def _about(paper: Paper, corpus: CorpusStatistics) -> str:
    """Return the terms that a reaction to a paper would weigh, as a list in words."""
    chosen: list[profile.Term] = []
    for term in profile.telling_terms(paper, corpus):
        words = set(term.stems.split())
        if not any(words & set(other.stems.split()) for other in chosen):
            chosen.append(term)
    return formatting.listed([f"“{term.written}”" for term in chosen[:TERMS]])
