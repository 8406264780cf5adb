"""What a reply of a mail server means for one message: a table, and nothing else.

The order of evidence is fixed: the phase, then what single providers are known to mean, then the
enhanced code (RFC 3463), then the text, then the basic code. The first rule that fits wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pipeline.domain import Verdict
from pipeline.smtp.wordings import (
    ABOUT_THE_SENDER,
    BLOCKED,
    FOR_NOW,
    FULL,
    GONE,
    GONE_ELSEWHERE,
    LARGE,
    NO_HOST,
    SURELY_FULL,
    SURELY_LARGE,
    THROTTLING,
)


class Phase(StrEnum):
    """How far the conversation was when the reply came."""

    CONNECT = "connect"  # greeting, EHLO, STARTTLS
    LOGIN = "login"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # the command and the body, up to the dot
    DOT = "dot"  # after the final dot: only the reply tells


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's answer: `Reply(550, "5.1.1", "no such user")`."""

    code: int
    enhanced: str | None
    text: str  # its lines joined by a space, without codes

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.code, self.enhanced, self.text) if part)


_ADDRESS: Final = re.compile(r"<?[^\s<>:;,]+@[^\s<>:;,]+>?")
# For judging only: no end of a sentence and no Chinese or Japanese word belongs to an address.
_WORD: Final = r"[^\s<>:;,@.\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]"
ADDRESS: Final = re.compile(
    rf"<?{_WORD}{{1,64}}(?:\.{_WORD}{{1,64}}){{0,8}}@{_WORD}{{1,63}}(?:\.{_WORD}{{1,63}}){{0,8}}>?"
)
_Rule = tuple[Callable[[Phase, Reply], bool], Verdict]

_ENHANCED = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?:\s+|$)")


def without_addresses(reply: Reply) -> str:
    """The reply as it may be logged: servers like to repeat the recipient."""
    return _ADDRESS.sub("<address>", str(reply))


def parse_reply(lines: list[bytes]) -> Reply:
    """The reply made of these lines, without their ends; ValueError when it is not one."""
    texts = []
    enhanced = None
    for line in lines:
        text = line[4:].decode("utf-8", "replace").strip()
        found = _ENHANCED.match(text)
        # RFC 2034, section 4: the class of both codes must agree, else it is only text.
        if found and found[1][0] == chr(line[0]):
            enhanced = enhanced or found[1]
            text = text[found.end() :]
        texts.append(text)
    code = int(lines[-1][:3])
    if not 200 <= code <= 599:
        raise ValueError(f"{code} is not a reply code")
    return Reply(code, enhanced, " ".join(filter(None, texts)))


# --- What is wrong, by enhanced code -------------------------------------------------------------

_AUTHENTICATION: Final = {"7.515", "7.509", "7.20", "7.21", "7.22", "7.23", "7.24"} | {
    "7.26",
    "7.27",
    "7.30",
    "7.32",
}
_THROTTLED: Final = {"7.28", "7.650", "7.651"}
_HARD: Final = {"1.1", "1.2", "1.6", "1.10"}
# Facebook says 5.1.1 to it.
_REFUSED_BY_THE_READER: Final = re.compile("recipient preferences", re.I)
_ABOUT_COMMANDS: Final = {500, 502, 503, 504, 521, 552}
_REJECTED_ADDRESS: Final = re.compile("address rejected", re.I)
_REFUSED_AT_THE_EDGE: Final = re.compile(r"recipient address(es)? rejected ?: access denied", re.I)


def _detail(reply: Reply) -> str:
    """The enhanced code without its class: what is wrong, not for how long."""
    return reply.enhanced[2:] if reply.enhanced else ""


# --- The rules, in the order they are tried -----------------------------------------------------


def _refuses_us(phase: Phase, reply: Reply) -> bool:
    if reply.code in {530, 535, 538}:
        return True
    return phase is Phase.LOGIN or (
        phase is Phase.MAIL and reply.code >= 500 and _detail(reply) != "3.4"
    )


def _drops_the_connection(_phase: Phase, reply: Reply) -> bool:
    return (
        reply.code == 421
        and _detail(reply) not in _AUTHENTICATION | _THROTTLED
        and not THROTTLING.search(reply.text)
    )


def _mailbox_is_full(_phase: Phase, reply: Reply) -> bool:
    if _detail(reply) == "2.2":
        return True
    if SURELY_FULL.search(reply.text) and not _is_about_sending(reply):
        return True
    if reply.code not in {452, 552}:
        return False
    # Orange says 5.1.1 for a full mailbox, but then with 552.
    if reply.code == 552 and _detail(reply) == "1.1":
        return True
    return _detail(reply) not in {"3.1", "3.4", "5.3"} and bool(FULL.search(reply.text))


def _is_about_sending(reply: Reply) -> bool:
    """Quotas of ours, not of the reader's mailbox ("daily user sending quota exceeded")."""
    return _detail(reply) in {"4.5", "5.3", "7.28"} or "sending" in reply.text.lower()


def _distrusts_our_domain(_phase: Phase, reply: Reply) -> bool:
    return _detail(reply) in _AUTHENTICATION


def _is_too_fast(_phase: Phase, reply: Reply) -> bool:
    if _detail(reply) in _THROTTLED or (reply.code == 450 and reply.enhanced == "4.2.1"):
        return True
    if _detail(reply) in {"3.1", "5.3"} or _detail(reply) in _HARD:
        return False  # "too many recipients", "too many hops to that address": not about speed
    return bool(THROTTLING.search(reply.text)) and (reply.code < 500 or _is_about_sending(reply))


def _greylists(_phase: Phase, reply: Reply) -> bool:
    return reply.code in {450, 451} and bool(re.search("gr[ae]y.?list", reply.text, re.I))


def _is_too_large(_phase: Phase, reply: Reply) -> bool:
    if reply.enhanced in {"5.3.4", "5.2.3"}:
        return True
    if "mailbox" in reply.text.lower() or _detail(reply) == "2.2":
        return False
    if reply.code in {552, 554}:
        return bool(LARGE.search(reply.text))
    return reply.code >= 500 and bool(SURELY_LARGE.search(reply.text))


def _blocks(_phase: Phase, reply: Reply) -> bool:
    if _REFUSED_BY_THE_READER.search(reply.text):
        return True
    if _detail(reply) in _HARD | {"2.1"}:
        return False  # the enhanced code is about the address, whatever else the text says
    if reply.code < 500:
        return False
    if BLOCKED.search(reply.text):
        return True
    if reply.enhanced != "5.7.1":
        return False
    # Some say 5.7.1 to everything: "550 5.7.1 No such user". A policy is named as one.
    return "policy" in reply.text.lower() or not _says_that_it_is_gone(reply.text)


def _has_no_such_address(_phase: Phase, reply: Reply) -> bool:
    if reply.code < 500:
        return False
    if _detail(reply) in _HARD:
        return True
    # Yahoo says "554 delivery error: dd This user doesn't have a yahoo.com account".
    if reply.code == 554 and "mailbox" in reply.text.lower() and not reply.enhanced:
        return True
    # Microsoft 365 says this where the whole directory is known at its edge.
    if _detail(reply) == "4.1" and _REFUSED_AT_THE_EDGE.search(reply.text):
        return True
    if _detail(reply) == "1.0" and _REJECTED_ADDRESS.search(reply.text):
        return not ABOUT_THE_SENDER.search(reply.text)
    if _detail(reply) == "2.1" and "disabled" in reply.text.lower():
        return "discontinued" in reply.text.lower()  # else perhaps for a while
    return reply.code not in _ABOUT_COMMANDS and _says_that_it_is_gone(reply.text)


def _says_that_it_is_gone(text: str) -> bool:
    if FOR_NOW.search(text) or ABOUT_THE_SENDER.search(text):
        return False
    return any(words.search(text) for words in (GONE, NO_HOST, GONE_ELSEWHERE))


_RULES: Final[tuple[_Rule, ...]] = (
    (_refuses_us, Verdict.CONFIGURATION),
    (_drops_the_connection, Verdict.CONNECTION),
    (_is_too_large, Verdict.TOO_LARGE),
    (_mailbox_is_full, Verdict.FULL),
    (_distrusts_our_domain, Verdict.AUTHENTICATION),
    (_greylists, Verdict.GREYLISTED),
    (_is_too_fast, Verdict.THROTTLED),
    (_blocks, Verdict.BLOCKED),
    (_has_no_such_address, Verdict.HARD),
    (lambda _phase, reply: reply.code >= 500, Verdict.SOFT),
    (lambda _phase, _reply: True, Verdict.DEFERRED),
)


def verdict_of(phase: Phase, reply: Reply) -> Verdict:
    """What `reply` means for the message that was in `phase`.

    A 3yz, or a 2yz too early, means that the server and we are out of step: before the dot the
    connection is to blame, after it nobody can tell.
    """
    if reply.code >= 400:
        # People may be called anything, so no word of their address is evidence.
        reply = replace(reply, text=ADDRESS.sub("<>", reply.text))
        return next(verdict for fits, verdict in _RULES if fits(phase, reply))
    if phase is not Phase.DOT:
        return Verdict.CONNECTION
    return Verdict.ACCEPTED if reply.code < 300 else Verdict.UNKNOWN


# --- Queue ids ----------------------------------------------------------------------------------

_QUEUE_IDS: Final = (
    re.compile(r"queued as ([\w.-]+)", re.I),  # Postfix and its kin
    re.compile(r"\bid=([\w-]+)", re.I),  # Exim
    re.compile(r"InternalId=(\d+)"),  # Exchange
    re.compile(r"^OK\s+\d+ (\S+) - gsmtp", re.I),
    re.compile(r"^OK ([0-9a-f]{8,}-[0-9a-f-]+)$", re.I),  # Amazon SES
    re.compile(r"^(\w{8,}) Message accepted", re.I),  # Sendmail
)


def queue_id(reply: Reply) -> str | None:
    """The name the server gave the message it took, where its 250 says one."""
    for pattern in _QUEUE_IDS:
        found = pattern.search(reply.text)
        if found:
            return found[1]
    return None
