"""Parse unsubscribe requests, as mail programs send them for `List-Unsubscribe: <mailto:...>`."""

from __future__ import annotations

import re
from typing import Final

from pipeline.domain import Notice, NoticeKind
from pipeline.feedback.bounces.mime import Mail
from pipeline.feedback.bounces.recipients import addresses, came_back_to

# `message._leave_headers` sets the subject "unsubscribe SECRET"; gateways and mail programs add
# marks, quotes and encodings around it, and signatures after it.
_SPACE: Final = r"(?:%(?:25)*20|&nbsp;|\s-\s|[\s:_+=,;'\"<>()\[\]{}\u2018-\u201f\u3000\uff1a])"
_WITH_SECRET: Final = re.compile(
    rf"(?<![A-Za-z0-9])unsubscribe{_SPACE}{{0,10}}?({_SPACE})([A-Za-z0-9_-]{{16,128}})(?![A-Za-z0-9_-])",
    re.I,
)
_LENGTH: Final = 22  # of `secrets.token_urlsafe(16)`
_CLASSES: Final = (re.compile("[a-z]"), re.compile("[A-Z]"), re.compile("[0-9_]"))
_MARKS: Final = (
    r"(?:\[[^\]]{1,60}\]|\{[^}]{1,60}\}|\*{1,5}[^*]{1,40}\*{1,5}|\((?:ext|external|spam)\)"
    r"|(?:re|aw|antw|sv|vs|fwd?|wg|tr|rv|res|r|i|odp|ynt|回复|答复"
    r"|返信)\s{0,2}(?:\[\d+\])?\s{0,2}[:\uff1a]"
    r"|(?:external|ext|spam|caution|extern)\s{0,2}[:\uff1a]|[\s\"'\u2018-\u201f-])"
)
_IN_ADDRESS: Final = re.compile(r"(?:^|[+-])unsubscribe[+=-]([\w-]{16,64})@", re.I)
_BY_HAND: Final = re.compile(
    rf"^{_MARKS}{{0,12}}(?:please\s+)?(?:unsubscribe|remove me|opt[ -]?out|abmelden|désinscription"
    r"|désabonner|cancelar suscripci[oó]n|disiscri\w+|afmelden|退订|配信停止|отписаться)"
    r"(?:\s+(?:me|please))*[\s.!\"'\u2018-\u201f]*$",
    re.I,
)


def parse(mail: Mail) -> Notice | None:
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
