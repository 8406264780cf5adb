"""Classify SMTP replies: first the subject of the refusal, then the verdict for the message.

Pure, and the only such table: bounce mails and webhooks are classified by it, too. docs/replies.md
lists real replies with their results, and a test checks that page.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pipeline.domain import Verdict
from pipeline.smtp.reply_patterns import (
    ABOUT_A_SENDER,
    ABOUT_US,
    BLOCKLIST,
    DISABLED,
    FOR_NOW,
    FULL,
    GONE,
    GONE_ELSEWHERE,
    GOOGLE_PAGE,
    LARGE,
    LOGIN,
    MAILBOX,
    NO_HOST,
    NULL_MX,
    OUR_ACCOUNT,
    OUR_MESSAGE,
    OUR_PROOFS,
    OUR_QUOTA,
    PASSING_CHECK,
    REFUSED_AT_THE_EDGE,
    REFUSED_BY_THE_READER,
    REJECTED_ADDRESS,
    REMARKS,
    SURELY_FULL,
    SURELY_LARGE,
    THE_WAY,
    THROTTLING,
    YAHOO,
)


class Phase(StrEnum):
    """The phase of the SMTP session in which a reply arrived."""

    CONNECT = "connect"  # greeting, EHLO, STARTTLS
    LOGIN = "login"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # the command and the body, up to the dot
    DOT = "dot"  # after the final dot: without a reply the outcome is unknown


class Subject(StrEnum):
    """The subject of a refusal. Only MAILBOX and some UNCLEAR ones count against a subscriber."""

    US = "us"  # our server, name, IP, domain, From, login, quota, rate, reputation, content
    WAY = "way"  # DNS, greylisting, timeouts: the path between the servers
    MAILBOX = "mailbox"  # named by the text, or by a code that cannot mean us
    UNCLEAR = "unclear"  # "554 Transaction failed", "550 Message refused"


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply: `Reply(550, "5.1.1", "no such user")`."""

    code: int
    enhanced: str | None
    text: str  # its lines joined by a space, without codes; printable and bounded if parsed

    def __str__(self) -> str:
        return " ".join(str(part) for part in (self.code, self.enhanced, self.text) if part)


LONGEST: Final = 1_000  # characters of a reply that are stored and classified

# --- Parsing ------------------------------------------------------------------------------------

# IronPort and similar servers write "550 #5.1.0 Address rejected".
_ENHANCED = re.compile(r"[#(]{0,2}([245]\.\d{1,3}\.\d{1,3})\)?(?:\s+|$)")
# Controls, invisible formatting and surrogates: the categories Cc, Cf and Cs of Unicode.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e"
    r"\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0001\U000e0020-\U000e007f]+"
)


def printable(text: str, most: int = LONGEST) -> str:
    """Normalise text for database and terminal: one line, at most `most` characters, no controls.

    Applied once to every text from a server when it is parsed: replies, bounces and webhooks.
    """
    return " ".join(_UNPRINTABLE.sub(" ", text[: 4 * most]).split())[:most].rstrip()


def parse_reply(lines: list[bytes]) -> Reply:
    """Parse the lines of a reply, given without CRLF; raise ValueError if it has no valid code."""
    texts = []
    enhanced = None
    for line in lines:
        text = line[4:].decode("utf-8", "replace").strip()
        found = _ENHANCED.match(text)
        # RFC 2034, section 4: the classes of both codes must agree; otherwise it is plain text.
        if found and found[1][0] == chr(line[0]):
            enhanced = enhanced or found[1]
            text = text[found.end() :]
        texts.append(text)
    if not re.fullmatch(rb"[2-5]\d\d", lines[-1][:3]):
        raise ValueError(f"{lines[-1][:3]!r} is not a reply code")
    return Reply(int(lines[-1][:3]), enhanced, printable(" ".join(filter(None, texts))))


# --- Text normalisation -------------------------------------------------------------------------

_ADDRESS: Final = re.compile(r"<?[^\s<>:;,]+@[^\s<>:;,]+>?")
# For classification only: an address has neither the end of a sentence nor CJK characters.
_WORD: Final = r"[^\s<>:;,()@.\u3000-\u9fff\uac00-\ud7af\uff00-\uffef]"
ADDRESS: Final = re.compile(
    rf"<?{_WORD}{{1,64}}(?:\.{_WORD}{{1,64}}){{0,8}}@{_WORD}{{1,63}}(?:\.{_WORD}{{1,63}}){{0,8}}>?"
)
_URL: Final = re.compile(r"(?:https?://|\bwww\.)[^\s<>\"']{1,500}", re.I)
_HOST: Final = re.compile(r"(?<![\w.-])(?:[a-z0-9_-]{1,63}\.){1,8}[a-z]{2,24}\b")
_IP: Final = re.compile(
    r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)|(?<!\w)(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}",
    re.I,
)


def without_addresses(reply: Reply) -> str:
    """Redact the addresses in a reply, for logging: servers often repeat the recipient."""
    return _ADDRESS.sub("<address>", str(reply))


def evidence(text: str) -> str:
    """Return the parts of `text` that are evidence, without addresses, hosts, IPs and remarks.

    Names of people and hosts can contain any word, so they are removed. URLs and host names of
    blocklists become "blocklist", and Google's help pages become their reason
    ("support.google.com/mail/?p=NoSuchUser").
    """
    text = ADDRESS.sub(" <> ", _URL.sub(_page, text[: 2 * LONGEST]))
    text = _HOST.sub(_name, _IP.sub(" IPNUMBER ", text)).replace("_", " ")
    return REMARKS.sub(" ", text)


def _page(found: re.Match[str]) -> str:
    reason = GOOGLE_PAGE.search(found[0])
    return f" {reason[1]} " if reason else _name(found)


def _name(found: re.Match[str]) -> str:
    return " blocklist " if BLOCKLIST.search(found[0]) else " "


# --- Causes by enhanced code --------------------------------------------------------------------

_PROOFS: Final = {"7.515", "7.509", "7.20", "7.21", "7.22", "7.23", "7.24", "7.25"} | {
    "7.26",
    "7.27",
    "7.30",
    "7.32",
}
_THROTTLED: Final = {"7.28", "7.650", "7.651", "2.121", "2.122", "4.5"}
_SENDER: Final = {"1.7", "1.8"}  # RFC 3463: the sender's address, or its system, is wrong
_GONE: Final = {"1.1", "1.6", "1.10"}
_ABOUT_COMMANDS: Final = {500, 502, 503, 504, 521, 552}


def _detail(reply: Reply) -> str:
    """Return the enhanced code without its class ("1.1" for 5.1.1): the cause, not its duration."""
    return reply.enhanced[2:] if reply.enhanced else ""


# --- Subject ------------------------------------------------------------------------------------


def subject_of(phase: Phase, reply: Reply) -> Subject:
    """Return the subject of a refusal (4yz or 5yz). Text about us takes precedence over codes.

    When in doubt, it is not the mailbox: a wrong "gone" suppresses a subscriber for good, a wrong
    "us" costs one more mail.
    """
    return _subject(phase, reply, evidence(reply.text))


def _subject(phase: Phase, reply: Reply, words: str) -> Subject:
    if _refuses_our_login(phase, reply) or _is_too_large(reply, words):
        return Subject.US
    if PASSING_CHECK.search(words):
        return Subject.WAY
    if reply.code == 556 or (NULL_MX.search(words) and not ABOUT_A_SENDER.search(words)):
        return Subject.MAILBOX  # RFC 7504 and 7505: the domain accepts no mail at all
    if _speaks_about_us(phase, reply, words):
        return Subject.US
    if _names_the_mailbox(reply, words):
        return Subject.MAILBOX
    return Subject.WAY if THE_WAY.search(words) else Subject.UNCLEAR


def _refuses_our_login(phase: Phase, reply: Reply) -> bool:
    if reply.code in {530, 535, 538} or phase is Phase.LOGIN:
        return True
    return phase is Phase.MAIL and reply.code >= 500 and _detail(reply) != "3.4"


def _speaks_about_us(phase: Phase, reply: Reply, words: str) -> bool:
    if REFUSED_AT_THE_EDGE.search(words) and _detail(reply) == "4.1":
        return False  # Microsoft 365 with directory-based edge blocking: an unknown recipient
    if _detail(reply) in _PROOFS | _THROTTLED or REFUSED_BY_THE_READER.search(words):
        return True
    if SURELY_FULL.search(words) and not OUR_QUOTA.search(words):
        return _detail(reply).startswith("7.")
    if any(said.search(words) for said in (ABOUT_US, OUR_QUOTA, OUR_PROOFS, LOGIN, OUR_ACCOUNT)):
        return True
    if phase is Phase.RCPT and reply.enhanced == "4.2.1" and reply.code == 450:
        return True  # Gmail: this reader receives mail too fast
    if _detail(reply) in _SENDER or _detail(reply).startswith(("6.", "7.")):
        return not (_is_mailbox_gone(words) and MAILBOX.search(words))
    return False


def _names_the_mailbox(reply: Reply, words: str) -> bool:
    if _detail(reply) in _GONE | {"1.2", "2.1"} or _is_full(reply, words):
        return True
    return any(names(reply, words) for names in (_is_no_address, _has_no_domain, _is_switched_off))


# --- Verdict ------------------------------------------------------------------------------------


def _about_us(phase: Phase, reply: Reply, words: str) -> Verdict:
    if _is_too_large(reply, words):
        return Verdict.TOO_LARGE
    if _refuses_our_login(phase, reply):
        return Verdict.CONFIGURATION
    if _detail(reply) in _PROOFS:
        return Verdict.AUTHENTICATION
    if _detail(reply) in _THROTTLED or reply.enhanced == "4.2.1":
        return Verdict.THROTTLED
    if OUR_QUOTA.search(words):
        return Verdict.DEFERRED if _detail(reply) in {"3.1", "5.3"} else Verdict.THROTTLED
    if reply.code < 500:
        is_known = BLOCKLIST.search(reply.text) or not THROTTLING.search(words)
        return Verdict.DEFERRED if is_known else Verdict.THROTTLED
    if LOGIN.search(words) or OUR_ACCOUNT.search(words):
        return Verdict.CONFIGURATION
    return Verdict.AUTHENTICATION if OUR_PROOFS.search(words) else Verdict.BLOCKED


def _about_the_way(_phase: Phase, _reply: Reply, words: str) -> Verdict:
    greylists = re.search(r"gr[ae]y.?list", words, re.I)
    return Verdict.GREYLISTED if greylists else Verdict.DEFERRED


def _about_the_mailbox(phase: Phase, reply: Reply, words: str) -> Verdict:
    if _is_full(reply, words):
        return Verdict.FULL
    if reply.code < 500:
        return Verdict.DEFERRED
    if reply.code == 556 or NULL_MX.search(words):
        return Verdict.HARD
    if _detail(reply) == "2.1":
        return Verdict.DISABLED
    if _detail(reply) == "1.2" or _has_no_domain(reply, words):
        return Verdict.NO_DOMAIN
    if not (_detail(reply) in _GONE or _is_no_address(reply, words)):
        return Verdict.DISABLED
    # Japanese carriers reply so at the dot if the reader's own filter refused the mail. Yahoo
    # checks the recipient only at the dot, and has a wording of its own.
    too_late = phase in {Phase.DATA, Phase.DOT} and not YAHOO.search(words)
    return Verdict.SOFT if too_late else Verdict.HARD


def _unclear(phase: Phase, reply: Reply, words: str) -> Verdict:
    if reply.code < 500:
        return Verdict.DEFERRED
    # If the recipient was accepted before, the refusal is about the message, which is ours.
    is_ours = phase in {Phase.DATA, Phase.DOT} or OUR_MESSAGE.search(words)
    return Verdict.BLOCKED if is_ours else Verdict.SOFT


_VERDICTS: Final[dict[Subject, Callable[[Phase, Reply, str], Verdict]]] = {
    Subject.US: _about_us,
    Subject.WAY: _about_the_way,
    Subject.MAILBOX: _about_the_mailbox,
    Subject.UNCLEAR: _unclear,
}


def verdict_of(phase: Phase, reply: Reply) -> Verdict:
    """Return the verdict of `reply` for the message that was in `phase`; see `classify`."""
    return classify(phase, reply)[0]


def classify(phase: Phase, reply: Reply) -> tuple[Verdict, Subject | None]:
    """Return the verdict and the subject of `reply`; the subject is None if it is no refusal.

    If a 3yz arrives, or a 2yz before the dot, client and server are out of step: the verdict is
    CONNECTION before the dot and UNKNOWN after it.
    """
    if reply.code < 400:
        if phase is not Phase.DOT:
            return Verdict.CONNECTION, None
        return Verdict.ACCEPTED if reply.code < 300 else Verdict.UNKNOWN, None
    words = evidence(reply.text)
    subject = _subject(phase, reply, words)
    verdict = _VERDICTS[subject](phase, reply, words)
    has_cause = verdict in {Verdict.THROTTLED, Verdict.AUTHENTICATION, Verdict.CONFIGURATION}
    # RFC 5321, section 3.8: with 421 the server closes the connection, for any subject.
    return Verdict.CONNECTION if reply.code == 421 and not has_cause else verdict, subject


# --- Predicates ---------------------------------------------------------------------------------


def _is_too_large(reply: Reply, words: str) -> bool:
    if reply.enhanced in {"5.3.4", "5.2.3"}:
        return True
    if "mailbox" in words.lower() or _detail(reply) == "2.2":
        return False
    if reply.code in {552, 554}:
        return bool(LARGE.search(words)) and not OUR_QUOTA.search(words)
    return reply.code >= 500 and bool(SURELY_LARGE.search(words))


def _is_full(reply: Reply, words: str) -> bool:
    if OUR_QUOTA.search(words):
        return False
    if _detail(reply) == "2.2" or SURELY_FULL.search(words):
        return True
    if reply.code not in {452, 552}:
        return False
    # Orange sends 5.1.1 for a full mailbox, but then with 552.
    if reply.code == 552 and _detail(reply) == "1.1":
        return True
    return _detail(reply) not in {"3.1", "3.4", "5.3"} and bool(FULL.search(words))


def _is_no_address(reply: Reply, words: str) -> bool:
    # Yahoo sends "554 delivery error: dd This user doesn't have a yahoo.com account".
    if reply.code == 554 and "mailbox" in words.lower() and not reply.enhanced:
        return not DISABLED.search(words) or _is_mailbox_gone(words)
    if _detail(reply) == "4.1" and REFUSED_AT_THE_EDGE.search(words):
        return True
    if _detail(reply) == "1.0" and REJECTED_ADDRESS.search(words):
        return True
    return reply.code not in _ABOUT_COMMANDS and _is_mailbox_gone(words)


def _has_no_domain(_reply: Reply, words: str) -> bool:
    return bool(NO_HOST.search(words)) and not FOR_NOW.search(words)


def _is_switched_off(_reply: Reply, words: str) -> bool:
    return bool(DISABLED.search(words))


def _is_mailbox_gone(words: str) -> bool:
    if FOR_NOW.search(words):
        return False
    return any(said.search(words) for said in (GONE, GONE_ELSEWHERE))


# --- Queue ids ----------------------------------------------------------------------------------

LONGEST_NAME: Final = 200  # characters

_QUEUE_IDS: Final = (
    re.compile(r"queued as ([\w.-]+)", re.I),  # Postfix and similar servers
    re.compile(r"\bid=([\w-]+)", re.I),  # Exim
    re.compile(r"InternalId=(\d+)"),  # Exchange
    re.compile(r"^OK\s+\d+ (\S+) - gsmtp", re.I),
    re.compile(r"^OK ([0-9a-f]{8,}-[0-9a-f-]+)$", re.I),  # Amazon SES
    re.compile(r"^(\w{8,}) Message accepted", re.I),  # Sendmail
)


def queue_id(reply: Reply) -> str | None:
    """Return the queue id in the 250 of an accepted message; None if it has none.

    Return None if it is longer than 200 characters, too: it is looked up by an index, and an index
    limits the length of its entries.
    """
    for pattern in _QUEUE_IDS:
        found = pattern.search(reply.text)
        if found:
            return found[1] if len(found[1]) <= LONGEST_NAME else None
    return None
