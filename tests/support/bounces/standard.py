"""Reports that follow the standards: RFC 3464 in its variants, RFC 5965, RFC 8098."""

# Texts of servers are kept as they are, with their long lines.
# ruff: noqa: E501

from __future__ import annotations

from pipeline.domain import NoticeKind as K
from tests.support.bounces import ADA, GRACE, MESSAGE_ID, Case, mail, recipient, report


def case(name: str, status: str | None, diagnostic: str | None, kind: K, read: str) -> Case:
    return Case(name, report(recipient(status, diagnostic)), kind, read)


ONE_RECIPIENT = [
    # The status field of the report, and the reply of the remote server
    case("all in order", "5.1.1", "smtp; 550 5.1.1 User unknown", K.HARD, "5.1.1"),
    case("no diagnostic", "5.1.1", None, K.HARD, "5.1.1"),
    case("no status", None, "smtp; 550 no such user", K.HARD, "5.1.1"),
    case("telling words only", "5.0.0", "smtp; 550 Unknown user", K.HARD, "5.1.1"),
    case("telling words only, full", "5.0.0", "smtp; 552 over quota", K.SOFT, "5.2.2"),
    case("nothing told", "5.0.0", "smtp; 550 Failed", K.SOFT, "5.0.0"),
    case("status against words, full", "5.1.1", "smtp; 550 Mailbox full", K.SOFT, "5.1.1"),
    case("status against words, blocked", "5.1.1", "smtp; 554 Blocked as spam", K.SOFT, "5.1.1"),
    case("status against code", "5.7.1", "smtp; 550 5.1.1 unknown user", K.HARD, "5.1.1"),
    case("status backs a vague reply", "5.1.1", "smtp; 551 not ours", K.HARD, "5.1.1"),
    case("for now, and given up", "4.4.7", "smtp; 450 4.2.0 try later", K.SOFT, "4.2.0"),
    case("host not found for now", "4.4.3", "x-postfix; Host not found, try again", K.SOFT, "4.4.3"),
    case("folded over lines", "5.0.0", "smtp; 550-5.1.1 The account does\n not exist", K.HARD, "5.1.1"),
    case("words in quotes", "5.1.1", "smtp;550 5.1.1 RESOLVER.ADR.RecipNotFound", K.HARD, "5.1.1"),
    # Types of diagnostic codes
    case("by Postfix", "5.1.1", "X-Postfix; unknown user: \"ada\"", K.HARD, "5.1.1"),
    case("by Notes", "5.1.1", "X-Notes; User ada not listed in Domino Directory", K.HARD, "5.1.1"),
    case("by Unix", "5.1.1", "x-unix; 67", K.HARD, "5.1.1"),
    case("by LMTP", "5.2.2", "smtp; 552 5.2.2 <ada@example.org> Quota exceeded", K.SOFT, "5.2.2"),
    # Replies of providers that the table of reply patterns knows
    case("Orange, full", "5.1.1", "smtp; 552 5.1.1 OFR_417 Boite pleine", K.SOFT, "5.1.1"),
    case("Orange, gone", "5.1.1", "smtp; 550 5.1.1 Invalid recipient OFR_416", K.HARD, "5.1.1"),
    case("Yahoo", "5.0.0", "smtp; 554 delivery error: dd no mailbox here", K.HARD, "5.1.1"),
    case("Gmail", "5.1.1", "smtp; 550-5.1.1 The account that you tried to reach does not exist",
         K.HARD, "5.1.1"),
    case("Gmail, disabled", "5.2.1", "smtp; 550 5.2.1 The account you tried is disabled", K.SOFT, "5.2.1"),
    case("Gmail, inactive", "5.2.1", "smtp; 550 5.2.1 The account you tried is inactive", K.HARD, "5.2.1"),
    case("Gmail, limited", "5.7.1", "smtp; 550-5.7.1 Our system has detected unsolicited mail",
         K.SOFT, "5.7.1"),
    case("Microsoft, at the edge", "5.4.1", "smtp; 550 5.4.1 Recipient address rejected: Access denied",
         K.HARD, "5.4.1"),
    case("Microsoft, handing on", "5.0.350",
         "smtp; 550 5.0.350 Remote server returned an error -> 550 5.1.1 rejected", K.HARD, "5.1.1"),
    case("Microsoft, no such domain", "5.4.310", "smtp; 550 5.4.310 DNS domain x does not exist",
         K.HARD, "5.4.310"),
    case("Microsoft, restricted", "5.7.133", "smtp; 550 5.7.133 sender not authenticated", K.SOFT, "5.7.133"),
    case("Facebook, by wish", "5.1.1", "smtp; 550 5.1.1 Refused due to recipient preferences",
         K.SOFT, "5.1.1"),
    case("Apple", "5.1.6", "smtp; 550 5.1.6 recipient no longer on server", K.HARD, "5.1.6"),
    case("web.de, full", "5.0.0", "smtp; 550 Benutzer hat zuviele Mails auf dem Server", K.SOFT, "5.2.2"),
    case("moved away", "5.1.6", "smtp; 551 5.1.6 user has moved", K.HARD, "5.1.6"),
    # Domains
    case("no such domain", "5.1.2", "smtp; 550 Host unknown", K.HARD, "5.1.2"),
    case("no such domain, Postfix", "5.4.4",
         "x-postfix; Host or domain name not found. Name service error for name=example.org type=A:"
         " Host not found", K.HARD, "5.4.4"),
    case("no such domain, Gmail", "4.0.0",
         "smtp; DNS Error: 81 DNS type 'mx' lookup of example.org responded with code NXDOMAIN",
         K.HARD, "5.1.2"),
    case("takes no mail at all, Gmail", "4.0.0",
         "smtp; The domain example.org doesn't receive email: returned Null MX", K.HARD, "5.1.10"),
    case("no answer, Gmail", "4.0.0", "smtp; The recipient server did not accept our requests to connect",
         K.SOFT, "4.0.0"),
    case("broken name server", "5.4.4", "x-postfix; Malformed name server reply", K.SOFT, "5.4.4"),
    case("takes no mail at all", "5.1.0", "x-postfix; Domain example.org does not accept mail (nullMX)",
         K.HARD, "5.1.0"),
    case("takes no mail at all, by its code", "5.0.0", "smtp; 556 No", K.HARD, "5.1.10"),
    case("takes no mail at all, Sendmail", "5.1.2",
         "smtp; 550 5.1.2 <ada@example.org>... Host unknown (Name server: .: host not found)", K.HARD, "5.1.2"),
    # About our own server, and about the mail
    case("no PTR, Gmail", "5.7.25", "smtp; 550 5.7.25 [192.0.2.7] The IP address has no PTR record", K.SOFT, "5.7.25"),
    case("a page that names a blocklist", "5.1.1", "smtp; 550 https://www.spamhaus.org/query/ip/192.0.2.7",
         K.SOFT, "5.1.1"),
    case("a page that names the reason", "5.0.0", "smtp; 550 https://support.google.com/mail/?p=NoSuchUser",
         K.HARD, "5.1.1"),
    case("a quota of ours", "5.2.2", "smtp; 550 You have exceeded your hourly quota", K.SOFT, "5.2.2"),
    case("a sender unknown", "5.1.1", "smtp; 550 5.1.1 Sender address rejected: User unknown", K.SOFT, "5.1.1"),
    case("at the dot", "5.0.0", "smtp; 550 Unknown user (in reply to end of DATA command)", K.SOFT, "5.0.0"),
    case("at the dot, by Sendmail's status", "5.2.0", "smtp; 550 Unknown user", K.SOFT, "5.2.0"),
    case("sender unknown", "5.1.8", "smtp; 550 5.1.8 Sender address rejected: Domain not found",
         K.SOFT, "5.1.8"),
    case("relaying", "5.7.1", "smtp; 554 5.7.1 Relay access denied", K.SOFT, "5.7.1"),
    case("no reverse DNS", "5.0.0", "smtp; 550 Client host rejected: cannot find your hostname",
         K.SOFT, "5.7.1"),
    case("blocklist", "5.0.0", "smtp; 554 blocked using dnsbl.example.net", K.SOFT, "5.7.1"),
    case("too large", "5.3.4", "smtp; 552 5.3.4 Message size exceeds fixed limit", K.SOFT, "5.3.4"),
    case("after the dot", "5.7.1", "smtp; 550 5.7.1 Message refused (in reply to end of DATA command)",
         K.SOFT, "5.7.1"),
    # Names of hosts and mailboxes are no evidence
    case("a name of bad words", "5.1.1", "smtp; 550 5.1.1 <spam.block@example.org>: unknown user",
         K.HARD, "5.1.1"),
    case("a host of bad words", "5.0.0", "smtp; host mx.antispam.example.net said: 550 unknown user",
         K.HARD, "5.1.1"),
]  # fmt: skip

SHAPES = [
    Case(
        "two recipients, one fate",
        report(
            f"""
            Reporting-MTA: dns; mx.example.com

            Final-Recipient: rfc822; {ADA}
            Action: failed
            Status: 5.1.1

            Final-Recipient: RFC822;<{GRACE}>
            Action: failed
            Status: 5.1.1
            """
        ),
        K.HARD,
        "5.1.1",
        (ADA, GRACE),
    ),
    Case(
        "two recipients, one of them alive",
        report(
            f"""
            Reporting-MTA: dns; mx.example.com

            Final-Recipient: rfc822; {GRACE}
            Action: failed
            Status: 5.2.2
            Diagnostic-Code: smtp; 552 5.2.2 mailbox full

            Final-Recipient: rfc822; {ADA}
            Action: failed
            Status: 5.1.1
            """
        ),
        K.HARD,
        "5.1.1",
    ),
    Case(
        "no line between recipients",
        report(
            f"""
            Reporting-MTA: dns; mx.example.com
            Final-Recipient: rfc822; {ADA}
            Action: failed
            Status: 5.0.0
            Diagnostic-Code: smtp; 550 mailbox unavailable
            Final-Recipient: rfc822; {GRACE}
            Action: failed
            Status: 5.0.0
            Diagnostic-Code: smtp; 550 mailbox unavailable
            """
        ),
        K.HARD,
        "5.1.1",
        (ADA, GRACE),
    ),
    Case("words about one of two are not about the other",
         report(f"Final-Recipient: rfc822; {ADA}\nAction: failed\nStatus: 5.0.0\n\n"
                f"Final-Recipient: rfc822; {GRACE}\nAction: failed\nStatus: 5.1.1",
                f"<{GRACE}>: 550 no such user"), K.HARD, "5.1.1", (GRACE,)),
    Case("Original-Recipient only",
         report(f"Reporting-MTA: dns; x\n\nOriginal-Recipient: rfc822;{ADA}\nAction: failed\n"
                "Status: 5.1.1"), K.HARD, "5.1.1"),
    Case("no type before the address",
         report(f"Final-Recipient: <{ADA}>\nAction: failed\nStatus: 5.1.1"), K.HARD, "5.1.1"),
    Case("action at the top, once",
         report(f"Action: failed\n\nFinal-Recipient: rfc822; {ADA}\nStatus: 5.1.1"), K.HARD, "5.1.1"),
    Case("a comment as the reason",
         report(f"Final-Recipient: rfc822; {ADA}\nAction: failed (Bad destination mailbox address)\n"
                "Status: 5.0.0"), K.HARD, "5.1.1"),
    Case("an address beyond ASCII",
         report("Final-Recipient: utf-8; žofie@příklad.example\nAction: failed\nStatus: 5.1.1",
                type="message/global-delivery-status", returned="message/global-headers"),
         K.HARD, "5.1.1", ("žofie@příklad.example",)),
    Case("an address as Exchange writes it",
         report("Final-Recipient: rfc822;IMCEAEX-_O=EXAMPLE_OU=FIRST+20ADMINISTRATIVE+20GROUP+20_CN=RECIPIENTS_CN=ADA"
                "@example.org\nAction: failed\nStatus: 5.1.1"), K.HARD, "5.1.1",
         ("IMCEAEX-_O=EXAMPLE_OU=FIRST+20ADMINISTRATIVE+20GROUP+20_CN=RECIPIENTS_CN=ADA@example.org",)),
    Case("headers of the mail only", report(recipient("5.1.1", None), returned="text/rfc822-headers"),
         K.HARD, "5.1.1"),
    Case("the reason stands in the words",
         report(recipient("5.0.0", None), f"Your message to {ADA} failed:\n\n550 No such user here\n"),
         K.HARD, "5.1.1"),
    Case("the words of Sendmail",
         report(recipient("5.1.1", "SMTP; 553 Sender Policy Framework (SPF) fail"),
                f"<<< 553 SPF fail\n550 5.1.1 <{ADA}>... User unknown\n"), K.SOFT, "5.7.1"),
    Case("the subject is quoted in the words",
         report(recipient("5.0.0", "smtp; 550 Failed"),
                "Your message\n\n  Subject: 550 5.1.1 User unknown in the wild\n\ncould not be sent.\n"),
         K.SOFT, "5.0.0"),
    # Not failed
    Case("delayed", report(recipient("4.4.1", "smtp; 450 busy", "delayed")), K.DELAYED, "4.4.1"),
    Case("delayed, unknown for now",
         report(recipient("4.1.1", "smtp; 450 4.1.1 User unknown", "delayed")), K.DELAYED, "4.1.1"),
    Case("delivered", report(recipient("2.0.0", None, "delivered")), K.NONE, None, ()),
    Case("relayed", report(recipient("2.0.0", None, "relayed")), K.NONE, None, ()),
    Case("expanded", report(recipient("2.0.0", None, "expanded")), K.NONE, None, ()),
    Case("wants to know us first",
         report(recipient("4.7.0", "X-Notice; Sender not pre-approved")), K.AUTO_REPLY, "4.7.0"),
]  # fmt: skip


def feedback(type: str, more: str = "") -> bytes:
    return report(
        f"Feedback-Type: {type}\nUser-Agent: Loop/1.0\nVersion: 1\n{more}",
        "This is a report of an email.",
        sender="Feedback <fbl@example.net>",
        subject="FW: Papers for 2 Jan",
        type="message/feedback-report",
    )


LOOPS = [
    Case("abuse", feedback("abuse", f"Original-Rcpt-To: <{ADA}>"), K.COMPLAINT),
    Case("abuse, address hidden", feedback("abuse", "Source-IP: 192.0.2.1"), K.COMPLAINT),
    Case("fraud", feedback("fraud", f"Original-Rcpt-To: {ADA}"), K.COMPLAINT),
    Case("opt-out", feedback("opt-out", f"Removal-Recipient: {ADA}"), K.COMPLAINT),
    Case("not spam", feedback("not-spam", f"Original-Rcpt-To: {ADA}"), K.NONE, None, ()),
    Case("DMARC's own", feedback("auth-failure", "Auth-Failure: dkim"), K.NONE, None, ()),
    Case(
        "Microsoft's own form",
        mail(
            f"""
            From: staff@example.net
            To: fbl@papers.example.com
            Subject: complaint about message from 192.0.2.1
            MIME-Version: 1.0
            Content-Type: multipart/mixed; boundary="b"

            --b
            Content-Type: message/rfc822

            X-HmXmrOriginalRecipient: <{ADA}>
            Message-ID: {MESSAGE_ID}
            To: undisclosed-recipients:;
            Subject: Papers

            Papers
            --b--
            """
        ),
        K.COMPLAINT,
    ),
]

RECEIPTS = [
    Case(
        "read by its reader",
        report(
            f"Final-Recipient: rfc822; {ADA}\nOriginal-Message-ID: {MESSAGE_ID}\n"
            "Disposition: manual-action/MDN-sent-manually; displayed",
            "The message was displayed.",
            sender=f"Ada <{ADA}>",
            subject="Read: Papers",
            type="message/disposition-notification",
        ),
        K.AUTO_REPLY,
    ),
    Case(
        "refused by a rule of the mailbox",
        report(
            f"Final-Recipient: rfc822; {ADA}\n"
            "Disposition: automatic-action/MDN-sent-automatically; deleted",
            f"Your message to <{ADA}> was automatically rejected:\nNo such user, go away",
            subject="Automatically rejected mail",
            type="message/disposition-notification",
        ),
        K.SOFT,
    ),
    Case(
        "refused by Sieve: full",
        report(
            f"Final-Recipient: rfc822; {ADA}\n"
            "Disposition: automatic-action/MDN-sent-automatically; deleted",
            f"Your message to <{ADA}> was automatically rejected:\nQuota exceeded",
            subject="Automatically rejected mail",
            type="message/disposition-notification",
        ),
        K.SOFT,
        "5.2.2",
    ),
]

CASES = [*ONE_RECIPIENT, *SHAPES, *LOOPS, *RECEIPTS]
