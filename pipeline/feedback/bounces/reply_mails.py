"""Parse replies: unsubscribe requests and automatic replies.

Mail programs send an unsubscribe request for `List-Unsubscribe: <mailto:...>`. Automatic replies
are out-of-office mails, acknowledgements and challenge-response systems.
"""

from __future__ import annotations

import re
from typing import Final

from pipeline.domain import Notice, NoticeKind
from pipeline.feedback.bounces.diagnostics import plain
from pipeline.feedback.bounces.mime import Headers, Mail
from pipeline.feedback.bounces.original import addresses, came_back_to, evidence

# `message._leave_headers` sets the subject "unsubscribe SECRET"; gateways and mail programs add
# marks, quotes and encodings around it, and signatures after it.
_SPACE: Final = r"(?:%(?:25)*20|&nbsp;|\s-\s|[\s:_+=,;'\"<>()\[\]{}\u2018-\u201f\u3000\uff1a])"
_WITH_SECRET: Final = re.compile(
    rf"(?<![A-Za-z0-9])unsubscribe{_SPACE}{{0,10}}?({_SPACE})([A-Za-z0-9_-]{{16,128}})(?![A-Za-z0-9_-])",
    re.I,
)
_LENGTH: Final = 22  # of `secrets.token_urlsafe(16)`
_CLASSES: Final = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9_]"))
_SUBJECT_MARKS: Final = (
    r"(?:\[[^\]]{1,60}\]|\{[^}]{1,60}\}|\*{1,5}[^*]{1,40}\*{1,5}|\((?:ext|external|spam)\)"
    r"|(?:re|aw|antw|sv|vs|fwd?|wg|tr|rv|res|r|i|odp|ynt|回复|答复"
    r"|返信)\s{0,2}(?:\[\d+\])?\s{0,2}[:\uff1a]"
    r"|(?:external|ext|spam|caution|extern)\s{0,2}[:\uff1a]|[\s\"'\u2018-\u201f-])"
)
_IN_ADDRESS: Final = re.compile(r"(?:^|[+-])unsubscribe[+=-]([\w-]{16,64})@", re.I)
_BY_HAND: Final = re.compile(
    rf"^{_SUBJECT_MARKS}{{0,12}}(?:please\s+)?(?:unsubscribe|remove me|opt[ -]?out|abmelden"
    r"|désinscription|désabonner|cancelar suscripci[oó]n|disiscri\w+|afmelden"
    r"|退订|配信停止|отписаться)"
    r"(?:\s+(?:me|please))*[\s.!\"'\u2018-\u201f]*$",
    re.I,
)


def parse_unsubscribe(mail: Mail) -> Notice | None:
    """Return an unsubscribe request with its secret, or without one if it was typed by hand.

    Return None for any other mail. The body is never searched: it may quote the link of a digest
    that was only forwarded.
    """
    subject = mail.headers.get("subject")[:500]
    secret = _secret(subject) or _addressed(came_back_to(mail.headers) or "")
    if secret is None and not _BY_HAND.match(subject):
        return None
    writer = tuple(addresses(mail.headers.get("from"))[:1])
    return Notice(NoticeKind.UNSUBSCRIBE, writer, secret=secret)


def _secret(subject: str) -> str | None:
    """Return the secret in a subject, or None.

    A secret has characters of at least two classes (lower case, upper case, digits or "_"); words
    of a title do not.
    """
    for found in _WITH_SECRET.finditer(subject):
        secret = found[2]
        if found[1] == "=" and secret.startswith("20") and len(secret) > _LENGTH:
            secret = secret[2:]  # "=20" is a space in quoted-printable
        if sum(bool(letters.search(secret)) for letters in _CLASSES) >= 2:
            return secret
    return None


def _addressed(address: str) -> str | None:
    found = _IN_ADDRESS.search(address)
    return found[1] if found else None


# --- Automatic replies --------------------------------------------------------------------------

_AUTO_REPLY_HEADERS: Final = (
    "x-autoreply",
    "x-autorespond",
    "x-autoresponder",
    "x-auto-reply-from",
    "x-mail-autoreply",
    "x-vacation",
    "x-away",
    "x-autoreply-from",
    "x-ms-exchange-generated-message-source",
    "x-challenge",
    "x-boxbe-notice",
    "x-amazon-auto-reply",
)
_PRECEDENCE: Final = ("auto_reply", "auto-reply", "autoreply")
_AUTO_REPLY_SUBJECT: Final = re.compile(
    r"^\W{0,4}(auto(matic)?|automated?)\W{0,2}(reply|response|re:|antwort|odpowied)|auto-?(reply"
    r"|response|responder|matische)|automated (reply|response)|autom\. reply"
    r"|out of (the )?office|out-of-office|\booo\b|away from (my|the)|on (vacation|holiday|leave"
    r"|annual|maternity|parental|sabbatical)|vacation|i am away|i'm away|absence"
    r"|thank you for (your|contacting)"
    r"|abwesen|automatische antwort|autoantwort|eingangsbest|nicht im (büro|haus)|urlaub"
    r"|réponse automatique|absent|en cong|bureau|accusé de réception|respuesta autom"
    r"|fuera de (la )?oficina|ausente|ausencia|vacaciones"
    r"|risposta automatica|fuori (sede|ufficio)|assen[tz]|in ferie|resposta autom|fora do escrit"
    r"|férias|automatisch antwoord|afwezig|niet aanwezig|vakantie|automatyczna odpowied"
    r"|nieobecno|poza biurem|urlop"
    r"|automaticky|automatická odpo|nepřítom|автоответ|автоматический ответ|отпуск|вне офиса"
    r"|отсутств|自动(回复|回覆|答复)|自動(回覆|回復|返信|応答|応信)|不在|休假|外出|休暇"
    r"|자동 ?(응답|회신)|부재 ?중|autosvar|frånvaro|fravær|ikke til stede|ferie\b|automaattinen"
    r"|poissa|automatikus|szabadság|otomatik yan|αυτόματη απάντηση|מענה אוטומטי|رد تلقائي"
    r"|please confirm|confirm your (message|e-?mail|address)|challenge|verification required"
    r"|sender verification|requires? (your )?(confirm|verif|approval)|waiting for your (confirm"
    r"|approval)|awaits moderator|held for (moderat|approval)|^read:|^not read:|^gelesen:|^lu ?:"
    r"|^leído|^letto|^lida:|return receipt",
    re.I,
)
_AUTO_REPLY_WORDS: Final = re.compile(
    r"(i am|i'm|i will be|i'll be|we are|he is|she is) (currently |now |presently )?(out of|away"
    r"|on (vacation|holiday|leave|annual|maternity|parental|sabbatical)|absent|travel+ing)"
    r"|(limited|no|intermittent) access to (my )?e-?mail|will (respond|reply|answer"
    r"|get back) .{0,60}(return|back|when|soon|as)"
    r"|no longer (works?|employed|with (the|our|this))|has left (the )?(company|organi[sz]ation"
    r"|university)|out of the office|automatic(ally generated)? (reply|response)|auto-?(reply"
    r"|respon)|thank you for (contacting|your (e-?mail|message))"
    r"|ich bin .{0,60}(nicht|abwesend|urlaub|wieder)|je suis (actuellement )?(absent|en cong)"
    r"|estaré fuera|me encuentro (fuera|ausente)|sono (fuori|assente|in ferie)|estarei (ausente"
    r"|fora)|ik ben .{0,40}(afwezig|niet)|przebywam na|я (нахожусь|буду) (в отпуске|отсутств)"
    r"|我.{0,10}(休假|外出|不在)|不在にして|休暇"
    r"|protected by .{0,60}(please|click|spam|verif)|(allowed|approved|accepted) (senders?|list)"
    r"|prove (that )?you are|verify (that )?you|to (confirm|verify) .{0,40}(click|reply)"
    r"|click .{0,60}(added|allow|deliver)",
    re.I,
)


def parse_auto_reply(mail: Mail) -> Notice | None:
    """Return a notice for an automatic reply (RFC 3834); None for any other mail.

    Recognised by headers, by subject, or by text if the mail is a reply or its return path is null.
    """
    text = evidence(mail.written)[:5_000]
    headers = mail.headers
    if not (_is_marked(headers) or _reads_like_one(headers, text)):
        return None
    return Notice(
        NoticeKind.AUTO_REPLY,
        tuple(addresses(headers.get("from"))[:1]),
        reason=plain(headers.get("subject")),
    )


def _is_marked(headers: Headers) -> bool:
    submitted = headers.get("auto-submitted").lower()
    if submitted.startswith("auto-replied"):
        return True
    if headers.get("precedence").lower().strip() in _PRECEDENCE:
        return True
    if any(name in headers for name in _AUTO_REPLY_HEADERS):
        return True
    return submitted.startswith("auto-") and _answers(headers)


def _reads_like_one(headers: Headers, text: str) -> bool:
    if _AUTO_REPLY_SUBJECT.search(headers.get("subject")[:300]):
        return "list-id" not in headers and "list-unsubscribe" not in headers
    return bool(_AUTO_REPLY_WORDS.search(text)) and (_answers(headers) or _is_null(headers))


def _answers(headers: Headers) -> bool:
    return bool(headers.get("in-reply-to") or headers.get("references")) or headers.get(
        "subject"
    ).lower().startswith(("re:", "auto:"))


def _is_null(headers: Headers) -> bool:
    return headers.get("return-path").strip() == "<>"
