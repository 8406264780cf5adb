"""Bounces that follow no standard, in the layouts and wordings of many mail systems."""

# Texts of servers are kept as they are: long lines, and letters of several scripts.
# ruff: noqa: E501, RUF001

from __future__ import annotations

from pipeline.domain import NoticeKind as K
from tests.support.bounces import (
    ADA,
    GRACE,
    MESSAGE_ID,
    ORIGINAL,
    Case,
    bounce,
    encoded,
    lines,
    mail,
)

QMAIL = """
Hi. This is the qmail-send program at mx.example.com.
I'm afraid I wasn't able to deliver your message to the following addresses.
This is a permanent error; I've given up. Sorry it didn't work out.

<{address}>:
{reason}
"""
EXIM = """
This message was created automatically by mail delivery software.

A message that you sent could not be delivered to one or more of its
recipients. This is a permanent error. The following address(es) failed:

  {address}
    {reason}
"""
POSTFIX = """
This is the mail system at host mx.example.com.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

<{address}>: {reason}
"""
SENDMAIL = """
   ----- The following addresses had permanent fatal errors -----
<{address}>

   ----- Transcript of session follows -----
... while talking to mx.example.org.:
>>> {said}
<<< {reason}
"""


def qmail(name: str, reason: str, kind: K, status: str | None) -> Case:
    return Case(f"qmail: {name}", bounce(QMAIL.format(address=ADA, reason=reason)), kind, status)


def exim(name: str, reason: str, kind: K, status: str | None) -> Case:
    text = EXIM.format(address=ADA, reason=reason)
    copy = "------ This is a copy of the message, including all the headers. ------"
    more = f"X-Failed-Recipients: {ADA}"
    return Case(f"Exim: {name}", bounce(text, more=more, after=copy), kind, status)


def postfix(name: str, reason: str, kind: K, status: str | None) -> Case:
    text = POSTFIX.format(address=ADA, reason=reason)
    return Case(f"Postfix: {name}", bounce(text, after=""), kind, status, message_id=None)


def sendmail(name: str, reason: str, kind: K, status: str | None, said: str = "") -> Case:
    text = SENDMAIL.format(address=ADA, reason=reason, said=said or f"RCPT To:<{ADA}>")
    end = "   ----- Original message follows -----"
    return Case(f"Sendmail: {name}", bounce(text, after=end), kind, status)


SERVERS = [
    qmail("gone", "Sorry, no mailbox here by that name. (#5.1.1)", K.HARD, "5.1.1"),
    qmail("remote", "192.0.2.7 does not like recipient.\nRemote host said: 550 No such user",
          K.HARD, "5.1.1"),
    qmail("no host", "Sorry, I couldn't find any host named mx.example.org. (#5.1.2)", K.HARD, "5.1.2"),
    qmail("name server", "CNAME lookup failed temporarily. (#4.4.3)\nI'm not going to try again.",
          K.SOFT, "4.4.3"),
    qmail("full", "The user's mailfolder is full.", K.SOFT, "5.2.2"),
    qmail("no reason at all", "", K.SOFT, "5.0.0"),
    exim("gone", "SMTP error after RCPT TO:<ada@example.org>: 550 unknown user", K.HARD, "5.1.1"),
    exim("unrouteable", "Unrouteable address", K.HARD, "5.1.1"),
    exim("full", "mailbox is full", K.SOFT, "5.2.2"),
    exim("tired", "retry timeout exceeded", K.SOFT, "5.0.0"),
    exim("spam", "host mx.example.org: 554 5.7.1 Your mail looks like spam", K.SOFT, "5.7.1"),
    postfix("gone", "host mx.example.org said: 550 5.1.1 User unknown", K.HARD, "5.1.1"),
    postfix("policy", "host mx.example.org said: 554 5.7.1 Access denied", K.SOFT, "5.7.1"),
    sendmail("its own guess", "550 Rejected\n550 5.1.1 <ada@example.org>... User unknown", K.SOFT, "5.0.0"),
    sendmail("its own guess of a policy", "550 Access denied\n550 5.1.1 <ada@example.org>... User unknown",
             K.SOFT, "5.7.1"),
    sendmail("a filter of the reader's", "550 Unknown user ada@example.org\n554 5.0.0 Service unavailable",
             K.SOFT, "5.0.0", "DATA"),
    sendmail("gone, after DATA was sent too",
             "550 Unknown user\n550 5.1.1 <ada@example.org>... User unknown\n>>> DATA\n<<< 503 Bad sequence",
             K.HARD, "5.1.1"),
    sendmail("gone", "550 MAILBOX NOT FOUND", K.HARD, "5.1.1"),
    sendmail("its own words after theirs", "554 Blocked\n550 5.1.1 <ada@example.org>... User unknown",
             K.SOFT, "5.7.1"),
    sendmail("host", "550 Host unknown (Name server: mx.example.org: host not found)", K.HARD, "5.1.2"),
    sendmail("a loop", "554 Too many hops 26 (25 max)", K.SOFT, "5.0.0"),
]  # fmt: skip


def case(
    name: str,
    text: str,
    kind: K,
    status: str | None,
    sender: str = "MAILER-DAEMON@mx.example.com",
    subject: str = "Undeliverable mail",
    message_id: str | None = MESSAGE_ID,
    after: str = "--- Original message follows ---",
) -> Case:
    octets = bounce(text, sender=sender, subject=subject, after=after)
    return Case(name, octets, kind, status, message_id=message_id)


CARRIERS = [
    case(
        "a full mailbox, by a carrier",
        f"""
        Your mail sent on: Wed, 2 Jan 2030 08:00:00 +0900
            Could not be delivered to: <{ADA}>
            As their mailbox is full.
        """,
        K.SOFT,
        "5.2.2",
        "<no-reply@mobile.example.jp>",
        "Mail delivery",
    ),
    case(
        "a lost domain, by a carrier",
        f"""
        Your mail attempted to be delivered on: Wed, 2 Jan 2030 08:00:00 +0900
            Could not be delivered to: <{ADA}>
            As the remote domain doesnt exist.
        """,
        K.HARD,
        "5.1.2",
        "<no-reply@mobile.example.jp>",
        "Mail delivery",
    ),
    case(
        "a quota, by a carrier",
        f"The user(s) account is temporarily over quota.\n\n<{ADA}>",
        K.SOFT,
        "5.2.2",
        "Postmaster@mobile.example.jp",
        "Mail System Error - Returned Mail",
    ),
]

EXCHANGE = "Microsoft Exchange <postmaster@example.org>"

GROUPWARE = [
    case(
        "Exchange 5.5",
        f"""
        Your message

          To:      ada
          Subject: User unknown in the wild
          Sent:    Wed, 2 Jan 2030 08:00:00 -0000

        did not reach the following recipient(s):

        {ADA} on Wed, 2 Jan 2030 08:01:00 -0000
            The recipient name is not recognized
            MSEXCH:IMS:EXAMPLE:SITE:SERVER 0 (000C05A6) Unknown Recipient
        """,
        K.HARD,
        "5.1.1",
        "System Administrator <postmaster@example.org>",
        "Undeliverable: User unknown in the wild",
    ),
    case(
        "Exchange 2003",
        f"""
        Your message did not reach some or all of the intended recipients.

        The following recipient(s) could not be reached:

              {ADA} on 2.1.2030 08:00
                    The e-mail account does not exist at the organization this message was sent to.
                    <mx.example.org #5.1.1>
        """,
        K.HARD,
        "5.1.1",
        EXCHANGE,
    ),
    case(
        "Exchange 2010",
        f"""
        Delivery has failed to these recipients or groups:

        {ADA}
        The e-mail address you entered couldn't be found. Please check it and try to resend.

        Diagnostic information for administrators:

        {ADA}
        #550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##
        """,
        K.HARD,
        "5.1.1",
        EXCHANGE,
        after="Original message headers:",
    ),
    case(
        "Exchange, mailbox full",
        f"""
        Delivery has failed to these recipients or groups:

        {ADA}
        The recipient's mailbox is full and can't accept messages now.

        #554 5.2.2 mailbox full ##
        """,
        K.SOFT,
        "5.2.2",
        EXCHANGE,
    ),
    case(
        "Exchange, restricted",
        f"Delivery has failed to these recipients:\n\n{ADA}\n\n"
        "#550 5.7.1 RESOLVER.RST.AuthRequired; authentication required ##",
        K.SOFT,
        "5.7.1",
        EXCHANGE,
    ),
    case(
        "Domino",
        f"""
        Your message

          Subject: User unknown in the wild

        was not delivered to:

          {ADA}

        because:

          User ada ({ADA}) not listed in Domino Directory
        """,
        K.HARD,
        "5.1.1",
        "Postmaster@example.org",
        "DELIVERY FAILURE: User ada not listed in Domino Directory",
    ),
    case(
        "Domino, unsure",
        f"Your message was not delivered to:\n\n  {ADA}\n\nbecause:\n\n"
        "  Recipient user name ada not unique.  Several matches found in Domino Directory.",
        K.SOFT,
        "5.0.0",
        "Postmaster@example.org",
    ),
    case(
        "GroupWise",
        f"The message that you sent was undeliverable to the following:\n\n\t{ADA} (user not found)\n",
        K.HARD,
        "5.1.1",
        "Mailer-Daemon@example.org",
        "Message status - undeliverable",
    ),
    case(
        "Messaging Server",
        f"""
        Your message cannot be delivered to the following recipients:

          Recipient address: {ADA}
          Reason: unknown or illegal alias
        """,
        K.HARD,
        "5.1.1",
        "Internet Mail Delivery <postmaster@example.org>",
        "Delivery Notification: Delivery has failed",
    ),
]

PROVIDERS = [
    case(
        "Gmail, older",
        f"""
        Delivery to the following recipient failed permanently:

             {ADA}

        Technical details of permanent failure:
        The error that the other server returned was: 550 550 5.1.1 User unknown (state 13).
        """,
        K.HARD,
        "5.1.1",
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
    ),
    case(
        "Gmail, newer",
        f"""
        ** Address not found **

        Your message wasn't delivered to {ADA} because the address couldn't be found, or is
        unable to receive mail.
        """,
        K.HARD,
        "5.1.1",
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
    ),
    case(
        "Gmail, message blocked",
        f"""
        ** Message blocked **

        Your message to {ADA} has been blocked. See technical details below.

        The response was: 550 5.7.1 Message rejected as spam
        """,
        K.SOFT,
        "5.7.1",
        "Mail Delivery Subsystem <mailer-daemon@googlemail.com>",
    ),
    case(
        "Yahoo, older",
        f"Message from yahoo.com.\nUnable to deliver message to the following address(es).\n\n<{ADA}>:\n"
        "This user doesn't have an example.org account (ada) [-5]",
        K.HARD,
        "5.1.1",
    ),
    case(
        "Yahoo, disabled for good",
        f"Unable to deliver message to the following address(es).\n\n<{ADA}>:\n"
        "Sorry, this account has been disabled or discontinued.",
        K.HARD,
        "5.1.1",
    ),
    case(
        "Yahoo, newer",
        f"Sorry, we were unable to deliver your message to the following address.\n\n<{ADA}>:\n"
        "554: delivery error: dd This user doesn't have an account here",
        K.HARD,
        "5.1.1",
    ),
    case(
        "GMX",
        f'A message that you sent could not be delivered.\nThe following address failed:\n\n"{ADA}":\n'
        "SMTP error from remote server after RCPT command:\n5.1.1 <ada@example.org>... User Unknown",
        K.HARD,
        "5.1.1",
    ),
    case(
        "1&1, too large",
        f"A message that you sent could not be delivered.\n\n{ADA}\n\nFor the following reason:\n\n"
        "Mail size limit exceeded.",
        K.SOFT,
        "5.3.4",
    ),
    case(
        "Verizon",
        f"Error: Invalid user address\n\nError message below:\n550 - no such user here\n\n  RCPT TO: {ADA}",
        K.HARD,
        "5.1.1",
        "post_master@example.org",
        "Re: Papers",
    ),
    case(
        "Zoho",
        "This message was created automatically by mail delivery software. It could not be delivered.\n\n"
        f"{ADA} Invalid Address, ERROR_CODE :550, ERROR_CODE :5.1.1",
        K.HARD,
        "5.1.1",
    ),
    case(
        "MDaemon",
        f"{ADA} - no such user here.\n\nThere is no user by that name at this server.",
        K.HARD,
        "5.1.1",
        "MDaemon@example.org",
        f"Warning: {ADA} - User unknown!",
    ),
    case("IMail", f"Unknown user: {ADA}", K.HARD, "5.1.1", "Postmaster <postmaster@example.org>"),
    case(
        "IMail, tired",
        f"Delivery failed 20 attempts: {ADA}",
        K.SOFT,
        "5.0.0",
        "postmaster@example.org",
    ),
    case(
        "MailEnable",
        "MailEnable: Message could not be delivered to some recipients.\n"
        f"The following recipient(s) could not be reached:\n\n  [SMTP:{ADA}]: 550 mailbox unavailable\n",
        K.HARD,
        "5.1.1",
        "Delivery Subsystem <POSTMASTER@example.org>",
    ),
    case(
        "Mimecast",
        f"The message could not be delivered to {ADA}.\n\n550 Invalid Recipient - see our help pages",
        K.HARD,
        "5.1.1",
    ),
    case(
        "MessageLabs",
        "This is the mail delivery agent at messagelabs.com.\nI was unable to deliver your message to the "
        f"following addresses:\n\n{ADA}\n\nReason: 550 ada... No such user",
        K.HARD,
        "5.1.1",
    ),
    case(
        "Courier",
        f"This is a delivery status notification from mx.example.org.\n\nThe original message was received "
        f"from papers.\n\n     UNDELIVERABLE MAIL\n\n<{ADA}>:\n     mx.example.org [192.0.2.9]:\n"
        " >>> RCPT TO:<ada>\n <<< 550 User unknown.",
        K.HARD,
        "5.1.1",
    ),
    case(
        "LSMTP",
        f"An error was detected while processing the enclosed message. This list allows software to act on "
        f"incorrect addresses.\n\nError-for:  {ADA}\nError-Text: 554 Message looping",
        K.SOFT,
        "5.0.0",
    ),
    case(
        "InterScan",
        "****** Message from InterScan ******\n\nSent <<< RCPT TO:<ada>\nReceived >>> 550 5.1.1 unknown user"
        f"\n\nUnable to deliver message to <{ADA}>.",
        K.HARD,
        "5.1.1",
        "InterScan <postmaster@example.org>",
        "Mail delivery failure",
    ),
    case(
        "whom to ask stands on a line, too",
        f"The message could not be delivered.\n\n<{ADA}>:\n552 over quota\n\nAsk:\n\n<postmaster@example.org>:\n"
        "550 no such user means that nobody is there.",
        K.SOFT,
        "5.2.2",
    ),
    case(
        "X.400",
        f"Your message was not delivered to   {ADA}\nfor the following reason:\n"
        "Diagnostic was Unrecognised O/R name",
        K.HARD,
        "5.1.1",
        "postmaster@example.org",
        f"Delivery Report (failure) for {ADA}",
    ),
    case(
        "from no daemon, with a code behind the words",
        f"------ Failed Recipients ------\n\n<{ADA}>: mailbox unavailable. [SMTP Error Code 550]",
        K.HARD,
        "5.1.1",
        "mail_service@example.org",
        "Returned Mail - Error During Delivery",
        after="-------- Returned Mail --------",
    ),
    case(
        "a telephone number is no code",
        f"Please contact support at (480) 555-0100.\n\n<{ADA}>:\nThe user's mailfolder is full.",
        K.SOFT,
        "5.2.2",
    ),
    case(
        "a virus was found",
        f"A virus was found in your mail to {ADA}. It was not delivered.",
        K.SOFT,
        "5.7.1",
        "AntiVirus <postmaster@example.org>",
    ),
    case(
        "not taken, no reason",
        f"Delivery to the following recipients failed.\n\n       {ADA}\n",
        K.SOFT,
        "5.0.0",
        "postmaster@example.org",
        "Delivery Status Notification (Failure)",
    ),
]


def abroad(
    name: str, subject: str, body: str, charset: str, kind: K, status: str, transfer: str = "base64"
) -> Case:
    head = f"""
        From: Postmaster <postmaster@example.org>
        To: bounces@papers.example.com
        Subject: {subject}
        Content-Type: text/plain; charset={charset}
        """
    octets = encoded(head, body, charset=charset, transfer=transfer)
    return Case(name, octets, kind, status, message_id=None)


ABROAD = [
    abroad("German", "Unzustellbar: Papers", f"Ihre Nachricht an {ADA} konnte nicht zugestellt werden.\n\n"
           "Der Empfänger ist unbekannt.", "iso-8859-1", K.HARD, "5.1.1", "quoted-printable"),
    abroad("German, full", "Unzustellbar", f"Die Nachricht an {ADA} konnte nicht zugestellt werden:\n\n"
           "Das Postfach ist voll.", "utf-8", K.SOFT, "5.2.2"),
    abroad("French", "Non remis", f"Votre message n'a pas pu être remis à {ADA}.\n\nL'adresse n'existe pas.",
           "iso-8859-15", K.HARD, "5.1.1", "quoted-printable"),
    abroad("Spanish", "No se puede entregar", f"No se ha podido entregar a {ADA}:\n\nEl usuario no existe.",
           "windows-1252", K.HARD, "5.1.1"),
    abroad("Italian", "Mancata consegna", f"Impossibile recapitare a {ADA}.\n\nUtente sconosciuto.", "utf-8",
           K.HARD, "5.1.1"),
    abroad("Italian, Exchange", "Impossibile recapitare", f"Recapito non riuscito:\n\n{ADA}\n"
           "Impossibile trovare l'indirizzo di posta immesso.", "utf-8", K.HARD, "5.1.1"),
    abroad("Spanish, Gmail", "Delivery Status Notification (Failure)",
           f"No se ha entregado a {ADA} porque no se ha encontrado la dirección.", "utf-8", K.HARD, "5.1.1"),
    abroad("Portuguese", "Mail failed", f"A mensagem para {ADA} não foi entregue.\n\nO usuário não existe.",
           "utf-8", K.HARD, "5.1.1"),
    abroad("Dutch", "Onbestelbaar", f"Uw bericht aan {ADA} is niet bezorgd.\n\nOnbekende gebruiker.", "utf-8",
           K.HARD, "5.1.1"),
    abroad("Polish", "Mail failed", f"Nie można dostarczyć: {ADA}\n\nUżytkownik nie istnieje.", "iso-8859-2",
           K.HARD, "5.1.1"),
    abroad("Russian", "Mail failed", f"Письмо не может быть доставлено: {ADA}\n\nПользователь не найден.",
           "koi8-r", K.HARD, "5.1.1"),
    abroad("Chinese", "=?gb18030?B?z7XNs83L0MU=?=", f"无法投递到 {ADA}\n\n收件人地址不存在。", "gb18030",
           K.HARD, "5.1.1"),
    abroad("Chinese, no space", "=?gb18030?B?z7XNs83L0MU=?=", f"无法投递到{ADA}，用户不存在。", "gb18030",
           K.HARD, "5.1.1"),
    abroad("Chinese, full", "=?gb18030?B?z7XNs83L0MU=?=", f"无法投递到 {ADA}\n\n收件人的邮箱已满。", "gb2312",
           K.SOFT, "5.2.2"),
    abroad("Japanese", "Mail System Error - Returned Mail",
           "次のあて先へのメッセージは送信できませんでした。\n\n送信先メールアドレスが見つかりませんでした。\n"
           f"ご確認の上、再送信してください。\n\n<{ADA}>",
           "iso-2022-jp", K.HARD, "5.1.1", "7bit"),
    abroad("Japanese, full", "Mail error",
           f"送信できませんでした: <{ADA}>\n\n送信先のメールボックスが一杯です。", "shift_jis", K.SOFT, "5.2.2"),
    abroad("Korean", "Mail failed", f"메일이 전송되지 못했습니다: {ADA}\n\n존재하지 않는 사용자입니다.", "euc-kr",
           K.HARD, "5.1.1"),
]  # fmt: skip

HTML = f"""
<html><head><title>User unknown</title><style>p {{ color: red }}</style></head><body>
<p>Delivery has failed to these recipients:</p><p><b>{ADA}</b></p>
<p>The email address couldn&#39;t be found.<br>550&nbsp;5.1.1 not found</p></body></html>
"""
WRAPPED = bounce(QMAIL.format(address=ADA, reason="Remote host said: 550 No such user")).decode()

WRAPPINGS = [
    Case(
        "HTML only",
        mail(
            "From: postmaster@example.org\nTo: x@papers.example.com\nSubject: Undeliverable\n"
            f"Content-Type: text/html; charset=utf-8\n\n{HTML}"
        ),
        K.HARD,
        "5.1.1",
        message_id=None,
    ),
    Case(
        "within another mail",
        (
            "From: Gateway <gate@example.org>\nTo: x@papers.example.com\nSubject: Fwd\n"
            'Content-Type: multipart/mixed; boundary="b"\n\n--b\nContent-Type: text/plain\n\nSee below.\n'
            f"--b\nContent-Type: message/rfc822\n\n{WRAPPED}\n--b--\n"
        ).encode(),
        K.HARD,
        "5.1.1",
    ),
    Case(
        "forwarded by hand",
        (
            f"From: Grace <{GRACE}>\nTo: x@papers.example.com\nSubject: Fwd: failure notice\n\n"
            "Look at this!\n\n---------- Forwarded message ----------\n"
            f"> From: MAILER-DAEMON@mx.example.org\n> Subject: failure notice\n> \n"
            + "".join(f"> {line}\n" for line in lines(QMAIL.format(address=ADA, reason="550 No such user"))
                      .splitlines())
        ).encode(),
        K.HARD,
        "5.1.1",
        message_id=None,
    ),
    Case(
        "in lines of a Mac",
        bounce(QMAIL.format(address=ADA, reason="550 No such user")).replace(b"\n", b"\r"),
        K.HARD,
        "5.1.1",
    ),
    Case(
        "two addresses, one full",
        bounce(
            f"I wasn't able to deliver your message to the following addresses.\n\n<{GRACE}>:\n"
            f"552 mailbox full\n\n<{ADA}>:\n550 unknown user\n"
        ),
        K.HARD,
        "5.1.1",
    ),
    Case(
        "the address stands in the returned mail only",
        (
            "From: MAILER-DAEMON@mx.example.org\nTo: x@papers.example.com\nSubject: Undeliverable\n"
            'Content-Type: multipart/mixed; boundary="b"\n\n--b\n\nMessage could not be delivered.\n'
            f"550 user unknown\n--b\nContent-Type: message/rfc822\n\n{ORIGINAL}\n--b--\n"
        ).encode(),
        K.HARD,
        "5.1.1",
    ),
]  # fmt: skip

CASES = [*SERVERS, *CARRIERS, *GROUPWARE, *PROVIDERS, *ABROAD, *WRAPPINGS]
