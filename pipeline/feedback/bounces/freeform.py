"""Parse bounces that follow no standard: recipients by layout, causes by wording.

A mail system is recognised by the From, the subject and the opening lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pipeline.domain import Notice, NoticeKind, Verdict
from pipeline.feedback.bounces.diagnostics import (
    Diagnosis,
    codes,
    diagnose,
    far_words,
    has_code,
    is_bare,
    phase_of,
    plain,
)
from pipeline.feedback.bounces.mime import Headers, Mail
from pipeline.feedback.bounces.original import MOST, addresses, enclosed, evidence, other_addresses

_MOST_CODES: Final = 20
_AROUND: Final = 300  # characters after a code that belong to it

# "<ada@example.org>:", "  ada@example.org", " * ada@example.org", "Recipient: <ada@...>"
_OF: Final = re.compile(
    r"^[ \t>*•-]{0,20}(?:recipient(?: address)?:|address:|user:)?[ \t]{0,8}[<\"'\[(]{0,2}"
    r"([^\s<>\"'\[\]()@:;,]{1,64}@[^\s<>\"'\[\]()@:;,]{3,255})[>\"'\])]{0,2}[ \t]{0,8}:?(?=[ \t]*$"
    r"|:? )",
    re.I | re.M,
)
_TELLING: Final = (
    Verdict.TOO_LARGE,
    Verdict.FULL,
    Verdict.AUTHENTICATION,
    Verdict.GREYLISTED,
    Verdict.THROTTLED,
    Verdict.BLOCKED,
    Verdict.CONFIGURATION,
    Verdict.DISABLED,
    Verdict.NO_DOMAIN,
    Verdict.HARD,
    Verdict.SOFT,
    Verdict.CONNECTION,
)
"""Precedence of several findings about one address: those where it may still exist come first."""


def parse(mail: Mail) -> Notice | None:
    """Return a bounce or a delay written as free text; None for any other mail."""
    return read_words(mail.headers, evidence(mail.written), enclosed(mail))


def read_words(headers: Headers, text: str, returned: list[Headers]) -> Notice | None:
    """Return the notice in `text`, the evidence of a mail; `returned` are the enclosed headers.

    Return None if no mail system reports a failure; if the sender is neither daemon nor carrier and
    there is no code and no returned mail; or if there is neither a recipient nor a daemon's From.
    If one of several recipients is gone for good, only such recipients are named.
    """
    if not is_returned(headers, text):
        return None
    recipients = _failed_recipient(headers, text, returned)
    is_system = is_daemon(headers) or is_carrier(headers, text)
    if not (is_system or has_code(text) or returned) or not (recipients or is_daemon(headers)):
        return None  # about parcels that could not be delivered, or unknown users of a program
    if is_delayed(headers, text):
        return Notice(NoticeKind.DELAYED, recipients, reason=plain(text))
    found = [(name, _mildest(_in_section(words))) for name, words in _sections(headers, text)]
    failed = [(name, finding) for name, finding in found if finding.for_good]
    if failed:
        named = tuple(dict.fromkeys(name for name, _ in failed if name))
        return _failure(NoticeKind.HARD, named or recipients, failed[0][1], text)
    return _failure(NoticeKind.SOFT, recipients, _mildest([finding for _, finding in found]), text)


def _failure(
    kind: NoticeKind, recipients: tuple[str, ...], finding: Diagnosis, text: str
) -> Notice:
    return Notice(kind, recipients, finding.status, finding.reason or plain(text), finding.verdict)


def finding(mail: Mail) -> Diagnosis:
    """Return the finding in the human-readable part of a report, if its fields are inconclusive."""
    return _mildest(_in_section(evidence(mail.written)))


def _failed_recipient(headers: Headers, text: str, returned: list[Headers]) -> tuple[str, ...]:
    named = addresses(headers.get("x-failed-recipients"))
    named = (
        named or [name for name, _, _ in _heads(headers, text)] or other_addresses(text, headers)
    )
    if not named and returned:
        named = addresses(returned[0].get("to"))
    return tuple(dict.fromkeys(named))[:MOST]


def _heads(headers: Headers, text: str) -> list[tuple[str, int, int]]:
    """Return the addresses that begin a line, with the start and end offsets of these heads."""
    strangers = {name.lower() for name in other_addresses(text, headers)}
    found = [
        (addresses(head[1])[:1], head.start(), head.end())
        for head in islice(_OF.finditer(text), MOST)
    ]
    return [(name, a, b) for names, a, b in found for name in names if name.lower() in strangers]


def _sections(headers: Headers, text: str) -> Iterator[tuple[str | None, str]]:
    """Yield each address that begins a line, with the text up to the next one.

    Yield None with the whole text if fewer than two different addresses begin a line.
    """
    heads = _heads(headers, text)
    if len({name.lower() for name, _, _ in heads}) < 2:
        yield None, text
        return
    ends = [start for _, start, _ in heads[1:]]
    for (name, _, behind), end in zip(heads, [*ends, len(text)], strict=True):
        yield name, text[behind:end].lstrip(": ")


def _in_section(text: str) -> list[Diagnosis]:
    """Return a finding for each code and the text after it.

    If all are vague soft bounces, or there is no code, add a finding for each paragraph.
    """
    phase = phase_of(text)
    text = far_words(text)
    begins = codes(text)[:_MOST_CODES]
    ends = [*begins, len(text)][1:]
    said = [
        diagnose(_paragraph(text[b : min(e, b + _AROUND)]), phase=phase)
        for b, e in zip(begins, ends, strict=True)
    ]
    said += [diagnose(line, phase=phase) for line in text.split("\n") if is_bare(line)][
        :_MOST_CODES
    ]
    # A code of class 4 means that the failure may pass; free text must not make it permanent.
    if all(finding.verdict is Verdict.SOFT and finding.is_vague for finding in said):
        said += [
            diagnose(paragraph, phase=phase)
            for paragraph in re.split(r"\n[ \t]*\n", text)[:_MOST_CODES]
        ]
    return said


def _paragraph(text: str) -> str:
    return re.split(r"\n[ \t]*\n|\n(?=<<<|>>>|[ \t]*-{3})", text, maxsplit=1)[0]


def _mildest(found: list[Diagnosis]) -> Diagnosis:
    # Every undelivered mail "was rejected": such a vague finding is weaker than any clear cause.
    for vague in (False, True):
        for verdict in _TELLING:
            for finding in found:
                if finding.verdict is verdict and finding.is_vague is vague:
                    return finding
    return found[0] if found else Diagnosis(Verdict.SOFT, "5.0.0", "")


# --- Mails written by mail systems --------------------------------------------------------------

_BEFORE_THE_TITLE: Final = 17  # characters of a subject ("Delivery delayed:"); a title may follow
_START: Final = 3_000  # characters in which a mail system states its purpose

_DAEMON: Final = re.compile(
    r"mailer.?daemon|mail.?daemon|mdaemon|post[ _]?master|mail(er)? delivery"
    r"|delivery (sub)?system|system administrator"
    r"|mail system|microsoft exchange|mail administrator|smtp gateway|antivirus|virus ?wall"
    r"|\bndr@|nondelivery"
    r"|メール配信|システム管理者|<>|^$",
    re.I,
)
_SUBJECT: Final = re.compile(
    r"undeliver(ed|able)|un-?deliverable|returned (to sender|mail|message|e-?mail)|return(ed"
    r"|ing) (mail|message)"
    r"|(mail|message|e-?mail|delivery)\b.{0,40}\b(fail(ed|ure|s)?|error|problem|aborted"
    r"|not delivered|delayed|undelivered|rejected|refused|bounced)"
    r"|(failure|error) (notice|notification|delivery|mail)|failure to deliver|failed mail"
    r"|non-?deliver|not be(en)? delivered|could ?n.t be delivered|could not (be )?deliver"
    r"|delivery (status|report|notification|has)|user unknown|unknown (user|recipient|address)"
    r"|mail system error|nameserver error|processing error|warning: .{0,80}(user|delay|could)"
    r"|no such (user|address)|not deliverable|not yet been deliver|delivery warning|エラー通知"
    r"|bounce|dsn:|address not found|mail not delivered|unable to deliver|can.?not (be )?deliver"
    r"|unzustellbar|nicht (zugestellt|zustellbar)|zustellung|zurückgesandt|fehlgeschlagen|unzustell"
    r"|non (remis|distribu|délivr|deliv)|échec|impossible de (remettre|distribuer)|avis de non"
    r"|retour(né)? .{0,20}(message|mail)"
    r"|no (se )?(puede|pudo|ha podido|entregado|se ha podido)|devuelto|error de entrega"
    r"|notificaci[oó]n de estado|no entregable"
    r"|mancat[ao]|non recapitabil|impossibile|non consegnat|notifica di|n[aã]o (entregue"
    r"|foi entregue|pôde)|devolvid|falha|não é possível"
    r"|onbestelbaar|niet (bezorgd|afgeleverd)|bezorging|niedostarczon|nie (można|mozna"
    r"|dostarczono)|zwrot|nedoručiteln|недоставлен|не доставлен|не может быть доставлен"
    r"|невозможно доставить|ошибка доставки"
    r"|退信|无法(送达|投递)|無法傳[遞送]|投递失败|傳遞失敗|系统退|未传递|配信(不能|失敗|でき"
    r"|エラー)|配達(不能|でき)|送信(エラー|でき|失敗)|戻ってきました|不達|エラーメール|반송"
    r"|전송 ?(실패|불가)|배달|발송 ?실패|보내지 못"
    r"|kunne ikke leveres|kan ?ikke levere|kan inte levereras|olevererbart|teslim edilemedi"
    r"|iletilemedi|αποτυχία|ikke leveret|toimitta|kézbesít",
    re.I,
)
_OPENING: Final = re.compile(
    r"(hi\. )?this is the .{0,60}(program|mailer-?daemon|mail (delivery )?(system|agent)"
    r"|mail server|deliver)|created automatically by"
    r"|(could|can) ?(not|n.t|n't) be delivered|could not (be )?deliver|couldn.?t (be )?deliver"
    r"|(was|were|has|is|have) not (been )?(delivered|deliverable|send|sent)"
    r"|did ?(not|n.t) reach|unable to (deliver|send|relay)|not able to deliver"
    r"|wasn.?t (able to deliver|delivered)|cannot (be )?(delivered|deliver|sent)|undeliver(able"
    r"|ed)|failed to deliver|not been delivered"
    r"|delivery (to the following|has failed|failed|of the|status|error|attempt)"
    r"|failed (permanently|recipient)|following (address|recipient)|permanent (fatal )?(error"
    r"|failure)"
    r"|error message below|has not yet|been postponed|had delivery (problem|error)"
    r"|transcript of session|has been returned|(was|is|being) returned|returned (mail|message)"
    r"|rejected (by|your)|error (occurred|was detected|while)|non-?delivery|has been delayed"
    r"|message delayed"
    r"|user unknown|no such user|address not found|intended recipient:"
    r"|invalid (final )?(delivery|recipient|address)|mailbox is full|error-for|delivery failure"
    r"|sorry, (we were|i)"
    r"|nicht (zugestellt|zustellen|ausgeliefert|übermittelt|erreicht)|konnte.{0,60}nicht"
    r"|fehler bei der|unzustellbar|n.a (pas )?(pu|été)|échec|n.ont pas|impossible de|non remis"
    r"|no (se )?(ha )?(pudo|puede|podido|entregado)|error al entregar|impossibile (recapitare"
    r"|consegnare)|non (è stato|recapit|ha raggiunto)|n[aã]o (foi|pôde|pode)|falha na entrega"
    r"|niet (worden )?(bezorgd|afgeleverd|bereikt)|kan niet|nie (można|mozna|dostarczono"
    r"|została)|не (может быть|удалось|была? доставлен|доставлен)|недоставлен|退信|无法(送达"
    r"|投递|发送)|無法|未能|投递失败|被退回"
    r"|配信でき|送信でき|配達でき|届けられ|届きませ|送れませ|存在しま|エラー(に|が|の)"
    r"|失敗しました|전송(되지|하지)|전달(되지|할 수)|실패|반송|배달되지|보내지 못",
    re.I,
)
_LATER: Final = re.compile(
    r"still being retried|will be retried|(will|shall) (continue to (try|attempt)|continue|keep"
    r"|be|go on) (trying|to (try|attempt|be))|keep trying|delivery attempts will continue"
    r"|continue trying|not yet been delivered"
    r"|warning (message )?only|do not need to resend|no action is required on your part"
    r"|has been delayed|delivery (is |has been )?delayed|message (is )?delayed|is delayed"
    r"|\(delay(ed)?\)|could not be sent (for|within) .{0,40}will"
    r"|have not been able to deliver .{0,40}yet|will (re-?try|try again|attempt (to deliver"
    r"|delivery))|still (trying|awaiting)|(has been|was) postponed|temporary (problem|failure"
    r"|error).{0,60}(will|retr)|retry (for|until|every)|will be attempted"
    r"|verzögert|noch nicht (zugestellt|ausgeliefert)|weitere zustellversuche"
    r"|wird weiter versucht|retard[ée]|nouvelles? tentatives?|retrasad[oa]|se seguirá|ritardat"
    r"|atrasad|vertraagd|opóźnion|задерж|отложен|将继续|繼續嘗試|再送を|遅延|遅れて|지연",
    re.I,
)  # fmt: skip
_GIVEN_UP: Final = re.compile(
    r"given up|giving up|gave up|permanent(ly)? |permanent fatal|not going to try|has expired"
    r"|too long|will not (be )?(re-?tr|tr)|no (further|more) attempts|failed after|was aborted"
    r"|could not be delivered .{0,40}for (more than )?\d+ day",
    re.I,
)
# Mobile carriers send bounces without a daemon's name: "Your mail sent on: ... Could not be
# delivered to: <...> As their mailbox is full".
_FAILED_TO: Final = re.compile(
    r"^[ \t]{0,12}(?:(?:it |they )?(?:could|can)(?: ?not|n.t) be delivered"
    r"|(?:was|were) not delivered|undeliverable|delivery failed|配信できません|送信できません)"
    r"(?: to)?[ \t]{0,4}[:\uff1a]?[ \t\n]{0,12}<?[^\s<>@]{1,64}@",
    re.I | re.M,
)
_MACHINE: Final = re.compile(
    r"no-?reply|do-?not-?reply|auto(?:mail|send|reply)?@|system|info@|^$", re.I
)
_REPLY: Final = re.compile(r"^\s*(re|aw|antw|sv|odp|rv|fwd?|wg|tr|回复|返信)\s?[:\uff1a]", re.I)
_ARRIVED: Final = re.compile(
    r"^\s*(delivered|relayed|expanded|übermittelt|zugestellt|remis|distribué|entregado|consegnato"
    r"|recapitato|entregue|bezorgd)\s?:",
    re.I,
)


def is_returned(headers: Headers, text: str) -> bool:
    """Return whether a mail system reports a failure here.

    X-Failed-Recipients suffices. A daemon's From needs a matching subject or opening; any other
    From needs both, or the layout of `is_carrier`, and must not be a reply or a mail of a list: a
    person writes about a bounce in a reply, from a personal address.
    """
    if _ARRIVED.match(headers.get("subject")):
        return False
    if "x-failed-recipients" in headers:
        return True
    opening = bool(_OPENING.search(text[:_START]))
    subject = bool(_SUBJECT.search(headers.get("subject")[:300]))
    if is_daemon(headers):
        return opening or subject
    answers = _REPLY.match(headers.get("subject")) or headers.get("in-reply-to")
    of_a_list = "list-id" in headers or "list-unsubscribe" in headers
    return ((subject and opening) or is_carrier(headers, text)) and not answers and not of_a_list


def is_carrier(headers: Headers, text: str) -> bool:
    """Return whether an automatic sender reports a failed recipient in the first 600 characters."""
    is_machine = _MACHINE.search(headers.get("from")[:300]) or headers.get("return-path") == "<>"
    return bool(is_machine and _FAILED_TO.search(text[:600]))


def is_delayed(headers: Headers, text: str) -> bool:
    """Return whether the mail system says that it keeps retrying and has not given up."""
    said = f"{headers.get('subject')[:_BEFORE_THE_TITLE]}\n{text[:_START]}"
    return bool(_LATER.search(said)) and not _GIVEN_UP.search(said)


def is_daemon(headers: Headers) -> bool:
    """Return whether the From names a mail daemon.

    A null return path alone proves nothing: out-of-office replies have one, too (RFC 3834).
    """
    return bool(_DAEMON.search(headers.get("from")[:300]))
