"""What the dispatcher is compared with: Postfix's smtp-source, and the plain way in Python."""

from __future__ import annotations

import smtplib
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from pipeline.bench.outbox import Owed
from pipeline.bench.sinks import LONGEST_LEG, bounded
from pipeline.bootstrap import Services
from pipeline.errors import PaperboyError


def smtp_source(
    program: str, port: int, *, mails: int, sessions: int, message: Path, reuse: bool
) -> float:
    """Seconds that smtp-source takes for `mails` copies of the message in a file.

    It opens a connection for each mail, as it does by itself, or with `reuse` keeps `sessions`.
    """
    sizes = ["-s", str(sessions), "-m", str(mails), *(["-d"] if reuse else [])]
    mail = ["-f", "papers@example.org", "-t", "reader@example.org", "-F", str(message)]
    started = time.perf_counter()
    try:
        subprocess.run(  # noqa: S603  (our own command, and no shell)
            bounded([program, *sizes, *mail, f"127.0.0.1:{port}"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LONGEST_LEG,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip()
        raise PaperboyError(f"smtp-source failed: {said or error}") from error
    return time.perf_counter() - started


def message_file(raw: bytes, folder: Path) -> Path:
    """`raw` where smtp-source finds it; it makes the line ends and doubles the dots itself."""
    path = folder / "message"
    path.write_bytes(raw.replace(b"\r\n", b"\n"))
    return path


def plain(services: Services, port: int, owed: Sequence[Owed], now: datetime) -> float:
    """Seconds that an ordinary program takes for these digests, which it has in memory.

    Templates are compiled beforehand and one connection carries all, but each mail is rendered by
    Jinja, built by `EmailMessage` and sent by `smtplib`. There is no database: nothing is looked
    up, and nothing is kept of what became of a mail.
    """
    started = time.perf_counter()
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        for one in owed:
            smtp.send_message(_message(services, one, now))
    return time.perf_counter() - started


def _message(services: Services, owed: Owed, now: datetime) -> EmailMessage:
    delivery, links = owed.delivery, services.mail_links(owed.delivery, now)
    subject, html, text = services.renderer.page(owed.digest, links)
    message = EmailMessage()
    message["From"] = services.settings.mail_from
    message["To"] = delivery.email
    message["Subject"] = subject
    message["Date"] = format_datetime(now)
    message["Message-ID"] = services.message_id(delivery.dedupe_key)
    message["List-Id"] = f"<papers.{services.sender.host}>"
    message["List-Unsubscribe"] = f"<{links.unsubscribe}>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message["Precedence"] = "bulk"
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message
