"""Decide the consequence of a notice for its address. Pure."""

from __future__ import annotations

from enum import StrEnum

from pipeline.domain import DISABLED, STRIKES, Notice, NoticeKind, StrikeKind, Verdict

_NOT_THE_READER = ("4", "5.6.", "5.7.", "5.1.7", "5.1.8")


class Meaning(StrEnum):
    """The consequence of a notice, once its delivery is known."""

    COMPLAINT = "complaint"
    LEAVE = "leave"
    HARD = "hard"
    STRIKE = "strike"  # see `strike_of`
    NOTHING = "nothing"  # informational: stored, without effect


def meaning(notice: Notice) -> Meaning:
    match notice.kind:
        case NoticeKind.COMPLAINT:
            return Meaning.COMPLAINT
        case NoticeKind.UNSUBSCRIBE:
            return Meaning.LEAVE
        case NoticeKind.HARD | NoticeKind.SOFT if strike_of(notice):
            return Meaning.STRIKE
        case NoticeKind.HARD if notice.verdict in {None, Verdict.HARD}:
            return Meaning.HARD
    return Meaning.NOTHING


def strike_of(notice: Notice) -> StrikeKind | None:
    """Return the strike that a bounce counts as; None if it does not count against the subscriber.

    Blocked, throttled, deferred, too large and not authenticated are failures on our side.
    """
    if notice.verdict is not None:
        is_disabled = notice.status == DISABLED and notice.verdict in {Verdict.SOFT, Verdict.HARD}
        return StrikeKind.DISABLED if is_disabled else STRIKES.get(notice.verdict)
    if notice.status == DISABLED:
        return StrikeKind.DISABLED
    # RFC 3463: 4.y.z is transient, weak evidence about the address; x.6.z and x.7.z are about us.
    is_about_us = notice.status is not None and notice.status.startswith(_NOT_THE_READER)
    return None if notice.kind is NoticeKind.HARD or is_about_us else StrikeKind.SOFT
