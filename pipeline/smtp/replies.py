"""What a reply of a mail server means for one message: a table, and nothing else.

The order of evidence is fixed: the phase, then what single providers are known to mean, then the
enhanced code (RFC 3463), then the text, then the basic code. The first rule that fits wins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.domain import Verdict


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


_ADDRESS = re.compile(r"<?[^\s<>:;,]+@[^\s<>:;,]+>?")
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


# --- The words providers use --------------------------------------------------------------------

_THROTTLING: Final = re.compile(
    r"""rate.?limit | limit.{0,20}rate | \brate\b | throttl | too\ (many|fast|quickly|much\ mail)
      | TSS0?4 | sending\ (limit|quota) | temporarily\ deferred | slow\ down""",
    re.I | re.X,
)
_FULL: Final = re.compile(r"full|quota|over.{0,10}limit|insufficient.{0,20}(mailbox|user)", re.I)
_SURELY_FULL: Final = re.compile(r"mailbox.{0,20}\bfull\b|over.?quota|quota.{0,20}exceeded", re.I)
_LARGE: Final = re.compile(
    r"\b(message|mail|size|content|data)\b.{0,30}(too (large|big)|exceed)|exceed.{0,30}size", re.I
)
_BLOCKED: Final = re.compile(
    r"\bDNS[BW]L|\bRBL\b|block|blacklist|denylist|spam|junk|listed (in|at|by|on)|reputation", re.I
)
_GONE: Final = re.compile(
    r"""(user|recipient|mailbox|address|account|alias|person|member).{0,40}
            (unknown|not\ found|not\ exist|n't\ (exist|have)|invalid|unavailable|unrouteable)
      | (unknown|no\ such|invalid|non-?existent|bad|undeliverable)\ .{0,20}
            (user|recipient|mailbox|address|account|person|here)
      | n't\ have\ an?\ .{0,20}(account|mailbox)""",
    re.I | re.X,
)

_AUTHENTICATION: Final = {"7.515", "7.509", "7.20", "7.21", "7.22", "7.23", "7.24"} | {
    "7.26",
    "7.27",
    "7.30",
    "7.32",
}
_THROTTLED: Final = {"7.28", "7.650", "7.651"}
_HARD: Final = {"1.1", "1.2", "1.6", "1.10"}


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
        and not _THROTTLING.search(reply.text)
    )


def _mailbox_is_full(_phase: Phase, reply: Reply) -> bool:
    if _detail(reply) == "2.2":
        return True
    if _SURELY_FULL.search(reply.text) and not _is_about_sending(reply):
        return True
    if reply.code not in {452, 552}:
        return False
    # Orange says 5.1.1 for a full mailbox, but then with 552.
    if reply.code == 552 and _detail(reply) == "1.1":
        return True
    return _detail(reply) not in {"3.1", "3.4", "5.3"} and bool(_FULL.search(reply.text))


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
    return bool(_THROTTLING.search(reply.text)) and (reply.code < 500 or _is_about_sending(reply))


def _greylists(_phase: Phase, reply: Reply) -> bool:
    return reply.code in {450, 451} and bool(re.search("gr[ae]y.?list", reply.text, re.I))


def _is_too_large(_phase: Phase, reply: Reply) -> bool:
    if reply.enhanced in {"5.3.4", "5.2.3"}:
        return True
    if "mailbox" in reply.text.lower() or _detail(reply) == "2.2":
        return False
    return reply.code in {552, 554} and bool(_LARGE.search(reply.text))


def _blocks(_phase: Phase, reply: Reply) -> bool:
    if _detail(reply) in _HARD | {"2.1"}:
        return False  # the enhanced code is about the address, whatever else the text says
    if reply.enhanced == "5.7.1":
        return True
    return reply.code >= 500 and bool(_BLOCKED.search(reply.text))


def _has_no_such_address(_phase: Phase, reply: Reply) -> bool:
    if reply.code < 500:
        return False
    if _detail(reply) in _HARD:
        return True
    if _detail(reply) == "2.1":
        return False  # disabled: perhaps for a while
    # Yahoo says "554 delivery error: dd This user doesn't have a yahoo.com account".
    if reply.code == 554 and "mailbox" in reply.text.lower() and not reply.enhanced:
        return True
    return reply.code in {550, 551, 553, 554} and bool(_GONE.search(reply.text))


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
