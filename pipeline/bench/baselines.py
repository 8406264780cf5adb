"""Alternatives to the dispatcher: Postfix's smtp-source, and plain Python."""

from __future__ import annotations

import smtplib
import subprocess
import time
from collections.abc import Sequence
from datetime import datetime
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path

from pipeline.bench.outbox import QueuedDigest
from pipeline.bench.sinks import LONGEST_LEG, bounded
from pipeline.bootstrap import Services
from pipeline.errors import PaperboyError


def smtp_source(
    program: str, port: int, *, mails: int, sessions: int, message: Path, reuse: bool
) -> float:
    """Return seconds that smtp-source takes to send a message file `mails` times.

    By default it opens a connection for each mail; if `reuse`, it keeps `sessions` open. Raise
    PaperboyError if it fails or takes longer than LONGEST_LEG.
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
    """Write `raw` to a file for smtp-source, which adds CRLF and doubles leading dots itself."""
    path = folder / "message"
    path.write_bytes(raw.replace(b"\r\n", b"\n"))
    return path


def plain(services: Services, port: int, digests: Sequence[QueuedDigest], now: datetime) -> float:
    """Return seconds that a simple program takes to send these digests from memory.

    Templates are compiled before and one connection is used for all, but each mail is rendered by
    Jinja, built by `EmailMessage` and sent by `smtplib`. There is no database: nothing is queried,
    and no result is stored.
    """
    started = time.perf_counter()
    with smtplib.SMTP("127.0.0.1", port) as smtp:
        for queued in digests:
            smtp.send_message(_message(services, queued, now))
    return time.perf_counter() - started


def _message(services: Services, queued: QueuedDigest, now: datetime) -> EmailMessage:
    delivery, links = queued.delivery, services.mail_links(queued.delivery, now)
    subject, html, text = services.renderer.page(queued.digest, links)
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
