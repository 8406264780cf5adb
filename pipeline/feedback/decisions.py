"""What a notice means for the address it is about. Pure."""

from __future__ import annotations

from enum import StrEnum

from pipeline.domain import DISABLED, Notice, NoticeKind, StrikeKind, Verdict


class Meaning(StrEnum):
    """What is to be done, once it is known whose news it is."""

    COMPLAINT = "complaint"
    LEAVE = "leave"
    HARD = "hard"
    STRIKE = "strike"  # see `strike_of`
    NOTHING = "nothing"  # information: kept, and that is all


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
    """What a bounce counts as; None where it does not count against the person.

    Blocked, throttled, deferred, too large or not authenticated: that is about us.
    """
    if notice.status == DISABLED and notice.verdict in {None, Verdict.SOFT, Verdict.HARD}:
        return StrikeKind.DISABLED
    if notice.verdict is Verdict.FULL:
        return StrikeKind.FULL
    if notice.verdict is Verdict.SOFT:
        return StrikeKind.SOFT
    is_bare = notice.kind is NoticeKind.SOFT and notice.verdict is None
    # RFC 3463, section 2: 4.y.z is a failure for now, and says little about the address.
    is_passing = notice.status is not None and notice.status.startswith("4")
    return StrikeKind.SOFT if is_bare and not is_passing else None
