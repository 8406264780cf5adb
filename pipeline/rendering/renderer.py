"""Render a digest, or a transactional mail, cheaply enough for a million readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from jinja2 import Template, TemplateError
from markupsafe import Markup

from pipeline.domain import (
    MAIL_KINDS,
    DeliveryKind,
    Digest,
    NoMatchNotice,
    OperatorReport,
    Pick,
    SavedWeek,
)
from pipeline.errors import RenderError
from pipeline.rendering import formatting, selftest, templates, views
from pipeline.rendering.branding import Branding, MailLinks
from pipeline.rendering.cards import Cards, RenderCache, WireCard
from pipeline.rendering.fragments import Part, Rendered, escaped, fragment, part, placeholder
from pipeline.rendering.marking import Find, Marker
from pipeline.rendering.templates import TemplateParts
from pipeline.rendering.views import Edition, Personal, Place, Room
from pipeline.translations import gettext, ngettext

FRAMES = 512  # cached, about 15 KB each

# Placeholders, while a frame is rendered.
UNKNOWN = Personal(**{field.name: placeholder(field.name) for field in fields(Personal)})

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WireForm:
    """The parts of a mail around its cards, and the personal values that they use."""

    head: Part
    tail: Part
    asked: frozenset[str]

    def around(self, cards: Iterable[bytes], wire: Mapping[str, bytes]) -> tuple[bytes, ...]:
        return (self.head.filled(wire), *cards, self.tail.filled(wire))


@dataclass(frozen=True, slots=True)
class WireFrame:
    """A mail without cards and personal values, cached for all mails of the same edition."""

    text: WireForm
    html: WireForm


@dataclass(frozen=True, slots=True)
class MailText:
    """The subject and the values of a mail, without its cards."""

    subject: str
    edition: Edition
    personal: Personal


class ShownPaper(NamedTuple):
    """A paper of a digest in its place, rendered."""

    pick: Pick
    place: Place
    room: Room
    card: WireCard


class Renderer:
    """Renderer of all mails.

    Raise RenderError at construction, not in the first mail, if a template in `folder` is broken.
    """

    def __init__(self, branding: Branding, folder: Path, find: Find) -> None:
        self._house = branding
        self._templates = templates.load(folder, branding)
        self._marks = Marker(find, self._templates.mark)
        self._cards = Cards(branding, self._templates, self._marks)
        self._frames: RenderCache[object, WireFrame] = RenderCache(FRAMES)
        selftest.check_templates(
            self.digest,
            self.page,
            [
                *(
                    partial(
                        self.transactional,
                        kind,
                        selftest.SITE,
                        url=selftest.SITE,
                        report=selftest.REPORT,
                    )
                    for kind, mail in MAIL_KINDS.items()
                    if not mail.is_list
                ),
                *(partial(self.quiet_note, note, selftest.LINKS) for note in selftest.NOTES),
                partial(self.pause_note, selftest.LINKS),
                *(partial(self.saved_papers, week, selftest.LINKS) for week in selftest.WEEKS),
            ],
        )

    @property
    def template_version(self) -> str:
        return self._templates.version

    def digest(self, digest: Digest, links: MailLinks) -> Rendered:
        """Return the mail for one reader. If a paper cannot be rendered, leave it out and log it.

        Raise RenderError if no paper is left, or if a template fails.
        """
        shown = self._shown(digest, links.papers)
        mail = self._texts(digest, links, shown)
        frame = self._frame(mail.edition, links)
        in_text = {name: fragment(getattr(mail.personal, name)) for name in frame.text.asked}
        in_html = {name: escaped(getattr(mail.personal, name)) for name in frame.html.asked}
        return Rendered(
            mail.subject,
            frame.text.around([paper.card.text for paper in shown], in_text),
            frame.html.around([paper.card.html for paper in shown], in_html),
        )

    def page(self, digest: Digest, links: MailLinks) -> tuple[str, str, str]:
        """Return subject, HTML and text of the same mail as strings, from whole templates."""
        shown = self._shown(digest, links.papers)
        mail = self._texts(digest, links, shown)
        context = {
            "edition": mail.edition,
            "links": links,
            "mail": mail.personal,
            "picks": [self._cards.page(paper.pick, paper.place, paper.room) for paper in shown],
        }
        html = _render(self._templates.digest_html.whole, context)
        return mail.subject, html, _render(self._templates.digest_text.whole, context)

    def transactional(
        self,
        kind: DeliveryKind,
        unsubscribe_url: str,
        *,
        url: str | None = None,
        lasts: timedelta = timedelta(0),
        is_for_paper: bool = False,
        report: OperatorReport | None = None,
    ) -> Rendered:
        """Return a mail that its recipient requested, with the link `url` that works for `lasts`.

        It contains no text of a form, because another person may have filled it in. The templates
        get `unsubscribe_url`, and if the kind has a link its URL, as `confirm_url`, and its
        `hours` (at least 1) and `days`; and `is_for_paper`, if the link leads to one paper. Those
        of mails to the operator get the `lines` of the report, and `is_well`.
        """
        link = MAIL_KINDS[kind].link
        if link is None:
            values = {
                "unsubscribe_url": unsubscribe_url,
                "lines": report.lines if report else (),
                "is_well": kind is DeliveryKind.ALL_WELL,
            }
            return self._mail(kind, values)
        values = {
            f"{link.name.lower()}_url": url,
            "unsubscribe_url": unsubscribe_url,
            "hours": max(1, round(lasts / timedelta(hours=1))),
            "days": lasts.days,
            "is_for_paper": is_for_paper,
        }
        return self._mail(kind, values)

    def quiet_note(self, note: NoMatchNotice, links: MailLinks) -> Rendered:
        """Return the no-match notice: why no digest was sent, and which topics to broaden."""
        days = formatting.days(note.since, note.edition_on)
        values = {"note": views.quiet_note(note, links.preferences), "links": links}
        return self._mail(DeliveryKind.QUIET_NOTE, values, days=days)

    def pause_note(self, links: MailLinks) -> Rendered:
        """Return the mail that says that the digests are paused because of inactivity."""
        return self._mail(DeliveryKind.PAUSE_NOTE, {"links": links})

    def saved_papers(self, week: SavedWeek, links: MailLinks) -> Rendered:
        """Return the weekly mail of the papers that the reader saved."""
        shown = views.saved_lines(week.papers, links.papers)
        more = ngettext("%(num)s more paper", "%(num)s more papers", week.more)
        values = {
            "papers": shown,
            "preheader": " · ".join(formatting.cut_at_word(one.title, 90) for one in shown[:2]),
            "more": more if week.more else "",
            "links": links,
        }
        return self._mail(DeliveryKind.SAVED, values)

    def _mail(
        self, kind: DeliveryKind, values: Mapping[str, object], **in_subject: str
    ) -> Rendered:
        mail = MAIL_KINDS[kind]
        template = self._templates.mails[mail.template]
        name = formatting.clean(self._house.list_name)
        return Rendered(
            gettext(mail.subject, name=name, **in_subject) if mail.subject else "",
            (fragment(_render(template.text, values)),),
            (fragment(_render(template.html, values)),),
        )

    def _shown(self, digest: Digest, reactions: str) -> list[ShownPaper]:
        """Return the papers of a digest in their places, without those that cannot be rendered."""
        picks = views.arranged(digest.picks)
        error = RenderError("a digest without a paper")
        while picks:
            shown, failed = self._rendered(picks, digest, reactions)
            if not failed:
                return shown
            for paper, error in failed.items():
                log.warning("card.skipped", paper=paper, error=str(error))
            picks = [pick for pick in picks if pick.paper.id not in failed]
        raise error

    def _rendered(
        self, picks: list[Pick], digest: Digest, reactions: str
    ) -> tuple[list[ShownPaper], dict[int, RenderError]]:
        room = views.room(len(picks))
        places = views.places(
            picks,
            room.phrases,
            near_misses=digest.near_misses,
            reactions=reactions,
            matched=dict(digest.recap.matched if digest.recap else ()),
        )
        shown, failed = [], {}
        for pick, place in zip(picks, places, strict=True):
            its_room = views.LEAD_ROOM if place.lead else room
            try:
                card = self._cards.get(pick, place, its_room)
            except RenderError as error:
                failed[pick.paper.id] = error
            else:
                shown.append(ShownPaper(pick, place, its_room, card))
        return shown, failed

    def _texts(self, digest: Digest, links: MailLinks, shown: list[ShownPaper]) -> MailText:
        titles = [paper.card.title for paper in shown]
        html, text = self._contents(shown)
        return MailText(
            subject=views.subject(titles[0], self._house.list_name, near_misses=digest.near_misses),
            edition=_edition(digest, len(shown)),
            personal=Personal(
                preheader=" · ".join(formatting.cut_at_word(title, 90) for title in titles[1:3]),
                contents=html,
                contents_text=text,
                recap=views.recap_line(digest.recap, digest.edition_on, len(shown), digest.more)
                if digest.recap
                else "",
                topics=_topics(digest.topics),
                more=ngettext(
                    "%(num)s more paper matched.",
                    "%(num)s more papers matched.",
                    digest.more,
                ),
                more_url=links.more,
                unsubscribe=links.unsubscribe,
                preferences=links.preferences,
                view=links.view,
            ),
        )

    def _contents(self, shown: list[ShownPaper]) -> tuple[Markup, str]:
        """Return the contents in HTML and text; both are empty in a short mail."""
        if len(shown) < views.CONTENTS:
            return Markup(), ""
        entries = [views.entry(paper.place, paper.card.title) for paper in shown]
        html, text = zip(*map(self._cards.entry, entries), strict=True)
        return Markup().join(html), "".join(text)

    def _frame(self, edition: Edition, links: MailLinks) -> WireFrame:
        pages = (links.subscribe, links.privacy)
        return self._frames.get(
            (edition, pages), lambda: self._new_frame({"edition": edition, "links": links})
        )

    def _new_frame(self, context: Mapping[str, Any]) -> WireFrame:
        try:
            return WireFrame(
                text=_wire_form(self._templates.digest_text, context),
                html=_wire_form(self._templates.digest_html, context),
            )
        except TemplateError as error:
            raise RenderError(f"digest: {error}") from error


def _wire_form(form: TemplateParts, context: Mapping[str, Any]) -> WireForm:
    head = part(form.head.render(context, mail=UNKNOWN))
    tail = part(form.tail.render(context, mail=UNKNOWN))
    return WireForm(head, tail, frozenset(head.gaps + tail.gaps))


def _edition(digest: Digest, papers: int) -> Edition:
    return views.edition(
        digest.edition_on,
        digest.announced,
        papers,
        has_contents=papers >= views.CONTENTS,
        welcome=digest.welcome,
        has_more=digest.more > 0,
        has_topics=bool(digest.topics),
        near_misses=digest.near_misses,
        has_recap=digest.recap is not None,
        pauses_on=digest.pauses_on,
    )


@lru_cache(maxsize=4_096)
def _topics(labels: tuple[str, ...]) -> str:
    """Return the reader's topics as a list in words, wrapped. Cached."""
    return formatting.wrap(views.topics(labels))


def _render(template: Template, context: Mapping[str, Any]) -> str:
    try:
        return template.render(context)
    except TemplateError as error:
        raise RenderError(str(error)) from error
