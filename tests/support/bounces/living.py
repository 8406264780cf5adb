"""Mails that are no hard bounce: delays, automatic replies, unsubscribe requests, ordinary mail."""

# Texts of servers are kept as they are, with their long lines.
# ruff: noqa: E501

from __future__ import annotations

from pipeline.domain import NoticeKind as K
from tests.support.bounces import (
    ADA,
    GRACE,
    MESSAGE_ID,
    ORIGINAL,
    TITLE,
    Case,
    bounce,
    encoded,
    mail,
)

LIST_UNSUBSCRIBE = "List-Unsubscribe: <https://papers.example.com/unsubscribe/x>"
TOKEN = "-k3_0pQ7hV9xYcD2mNfLw-"  # as long as our tokens; "-" at its ends belongs to it, too
SECRET = "Zk3_0pQ7-hV9xYcD2mNfLwRt8sUaBe1G"


def delay(name: str, text: str, subject: str = "Warning: message delayed 4 hours") -> Case:
    octets = bounce(
        text, subject=subject, sender="Mail Delivery System <Mailer-Daemon@mx.example.com>"
    )
    return Case(f"delayed: {name}", octets, K.DELAYED)


DELAYS = [
    delay(
        "Exim",
        f"""
        This message was created automatically by mail delivery software.
        A message that you sent has not yet been delivered to one or more of its
        recipients after more than 24 hours on the queue on mx.example.com.

        The address to which the message has not yet been delivered is:

          {ADA}
            host mx.example.org: 450 4.1.1 User unknown, try again

        No action is required on your part. Delivery attempts will continue for some time.
        """,
    ),
    delay(
        "Sendmail",
        f"""
            **********************************************
            **      THIS IS A WARNING MESSAGE ONLY      **
            **  YOU DO NOT NEED TO RESEND YOUR MESSAGE  **
            **********************************************

           ----- The following addresses had transient non-fatal errors -----
        <{ADA}>

        Warning: message still undelivered after 4 hours
        Will keep trying until message is 5 days old
        """,
    ),
    delay(
        "Postfix",
        f"Your message could not be delivered for more than 4 hour(s).\n"
        f"It will be retried until it is 5 day(s) old.\n\n<{ADA}>: connect to mx.example.org: timed out",
        "Delayed Mail (still being retried)",
    ),
    delay(
        "Gmail",
        "This is an automatically generated Delivery Status Notification\n\nTHIS IS A WARNING MESSAGE ONLY.\n\n"
        f"Delivery to the following recipient has been delayed:\n\n     {ADA}\n\n"
        "Message will be retried for 2 more day(s)\n\nThe recipient server did not accept our requests.",
        "Delivery Status Notification (Delay)",
    ),
    delay(
        "a full mailbox, for now",
        f"Delivery to this address\n\n{ADA}\n\nhas been postponed due to a full mailbox.",
        "Mail Delivery Warning",
    ),
    delay(
        "German",
        f"Ihre Nachricht an\n\n<{ADA}>\n\nwurde noch nicht zugestellt. Die Zustellung ist verzögert.",
        "Zustellung verzögert",
    ),
]


def answer(
    name: str,
    subject: str,
    text: str = "Back on Monday.",
    more: str = "Auto-Submitted: auto-replied",
) -> Case:
    head = f"""
        From: Ada <{ADA}>
        To: bounces@papers.example.com
        Subject: {subject}
        In-Reply-To: {MESSAGE_ID}
        {more or "X-Mailer: any"}
        Content-Type: text/plain; charset=utf-8
        """
    return Case(f"answer: {name}", encoded(head, text, charset="utf-8"), K.AUTO_REPLY)


ANSWERS = [
    answer("by header", "Re: Papers"),
    answer("by an older header", "Re: Papers", more="X-Autoreply: yes"),
    answer("by precedence", "Re: Papers", more="Precedence: auto_reply"),
    answer("by another header", "Re: Papers", more="X-Autorespond: papers"),
    *(
        answer(f"in words, {language}", subject, more="")
        for language, subject in {
            "English": "Out of Office: Papers",
            "Exchange": "Automatic reply: Papers",
            "German": "Automatische Antwort: Papers",
            "German, away": "Abwesenheitsnotiz: Papers",
            "French": "Réponse automatique : Papers",
            "Spanish": "Respuesta automática: Papers",
            "Italian": "Risposta automatica: Papers",
            "Portuguese": "Resposta automática: Papers",
            "Dutch": "Automatisch antwoord: Papers",
            "Polish": "Automatyczna odpowiedź: Papers",
            "Russian": "Автоматический ответ: Papers",
            "Chinese": "自动回复: Papers",
            "Japanese": "自動応答: Papers",
            "Korean": "자동 응답: Papers",
            "Swedish": "Autosvar: Papers",
        }.items()
    ),
    answer(
        "by what it says", "Papers", "I am currently out of the office, back on Monday.", more=""
    ),
    answer(
        "of one who has left",
        "Papers",
        "Ada no longer works here. The mailbox is not read.",
        more="",
    ),
    answer(
        "of one who writes about bounces",
        "Out of office: mail delivery failed",
        "My mailbox is full of bounces that say 550 5.1.1 user unknown. I am on vacation.",
    ),
    answer(
        "prove who you are",
        "Please confirm your message",
        "This mailbox is protected. Click the link to have your address added.",
        more="",
    ),
    answer("a receipt of arrival", "Thank you for your e-mail", "We have received your message."),
]


def wish(name: str, head: str, secret: str | None = None) -> tuple[Case, str | None]:
    octets = mail(f"From: Ada <{ADA}>\n{head}\n\n.\n")
    return Case(f"leaves: {name}", octets, K.UNSUBSCRIBE, message_id=None), secret


WISHES = [
    wish("by our link", f"To: leave@papers.example.com\nSubject: unsubscribe {SECRET}", SECRET),
    wish("in capitals", f"To: leave@papers.example.com\nSubject: UNSUBSCRIBE {SECRET}", SECRET),
    wish("by address", f"To: leave+unsubscribe-{SECRET}@papers.example.com\nSubject: x", SECRET),
    *(
        wish(f"marked: {mark}", f"To: leave@papers.example.com\nSubject: {mark}", TOKEN)
        for mark in (
            f"[EXTERNAL] unsubscribe {TOKEN}",
            f"[External Sender] AW: unsubscribe {TOKEN}",
            f"Fwd: Re: unsubscribe {TOKEN}",
            f"{{Spam?}} unsubscribe {TOKEN}",
            f"***JUNK*** Unsubscribe {TOKEN}",
            f"EXTERN: unsubscribe {TOKEN}",
            f"'unsubscribe {TOKEN}'",
            f"unsubscribe {TOKEN}.",
            f"unsubscribe {TOKEN} -- sent from my phone",
            f"unsubscribe%20{TOKEN}",
            f"unsubscribe%2520{TOKEN}",
            f"unsubscribe=20{TOKEN}",
            f"unsubscribe+{TOKEN}",
            f"unsubscribe=<{TOKEN}>",
            f"unsubscribe\n {TOKEN}",
            f"=?utf-8?q?=5BEXTERNAL=5D_unsubscribe_{TOKEN.replace('_', '=5F')}?=",
        )
    ),
    wish("marked, by hand", "To: papers@papers.example.com\nSubject: [EXTERNAL] Re: Unsubscribe"),
    wish("quoted, by hand", 'To: papers@papers.example.com\nSubject: "AW: Abmelden"'),
    wish("by hand", "To: papers@papers.example.com\nSubject: Unsubscribe"),
    wish("politely", "To: papers@papers.example.com\nSubject: Please unsubscribe me"),
    wish("in German", "To: papers@papers.example.com\nSubject: Abmelden"),
]


def ordinary(name: str, head: str, text: str) -> Case:
    octets = mail(f"From: Grace <{GRACE}>\nTo: papers@papers.example.com\n{head}\n\n{text}")
    return Case(f"ordinary: {name}", octets, K.NONE, recipients=(), message_id=None)


ORDINARY = [
    ordinary("a letter", "Subject: Thank you", "I like the papers."),
    ordinary("about bounces", "Subject: Re: Mail delivery failed", f"> 550 5.1.1 {TITLE}\n\nWhy did I get this?"),
    ordinary("about leaving", "Subject: Re: unsubscribe functionality-is-broken-here", "Look."),
    ordinary("a way to leave, quoted", "Subject: Fwd: Papers", f"See https://papers.example.com/unsubscribe/{SECRET}\n"
             f"unsubscribe {SECRET}"),
    ordinary("about unsubscribing", "Subject: How do I unsubscribe from one topic?", "Thanks!"),
    ordinary("a newsletter about mail", f"Subject: {TITLE}\n{LIST_UNSUBSCRIBE}", f"{TITLE}\n\nUser unknown."),
    ordinary("a paper of ours, come home", f"Subject: {TITLE}\n{LIST_UNSUBSCRIBE}", ORIGINAL),
    ordinary("a paper of ours, quoted", "Subject: Fwd: Papers", f"Read this!\n\n--- Forwarded message ---\n"
             f"From: Papers <papers@papers.example.com>\nSubject: {TITLE}\n\n550 5.1.1 user unknown"),
    ordinary("made by a machine", "Subject: Build passed\nAuto-Submitted: auto-generated", "All green."),
    ordinary("a parcel", "Subject: Delivery failed", f"Your parcel could not be delivered. Address unknown."
             f" Write to {ADA}"),
    ordinary("a programme's log", "Subject: login: user unknown", "root: user unknown"),
    ordinary("junk", "Subject: You have won\nContent-Type: text/html", "<p>Click <a href='x'>here</a>"),
    ordinary("no text", "Subject: Hello", ""),
    Case("ordinary: a receipt of delivery", bounce(f"Delivery to the following recipients is complete:\n\n{ADA}",
         subject="Delivered: Papers", sender="postmaster@example.org"), K.NONE, None, (), None),
    Case("ordinary: nothing at all", b"", K.NONE, recipients=(), message_id=None),
    Case("ordinary: no mail", b"\x00\x89PNG\r\n\x1a\n" * 20, K.NONE, recipients=(), message_id=None),
]  # fmt: skip

CASES = [*DELAYS, *ANSWERS, *(case for case, _ in WISHES), *ORDINARY]
