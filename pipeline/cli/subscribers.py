"""Commands about subscribers and suppressions."""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, time
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any, BinaryIO, TextIO

import typer

from pipeline import signup
from pipeline.bootstrap import Services, services
from pipeline.cli.output import (
    After,
    AsJson,
    Before,
    Limit,
    Now,
    Since,
    UsageError,
    complain,
    lines,
    midnight,
    moment,
    most,
    new_private_file,
    show,
)
from pipeline.domain import Breadth, Frequency, Schedule, Subscriber, SuppressionReason
from pipeline.errors import PaperboyError
from pipeline.feedback import suppression
from pipeline.signup import Choices, members
from pipeline.signup.transfer import Imported, ImportReport
from pipeline.storage import guard, suppressions
from pipeline.storage.database import Page, read_only

app = typer.Typer(no_args_is_help=True)
suppressions_app = typer.Typer(no_args_is_help=True)

COLUMNS = (
    "id",
    "email",
    "status",
    "topics",
    "hour",
    "timezone",
    "frequency",
    "weekday",
    "max_papers",
    "breadth",
    "paused_until",
    "pause_reason",
    "next_slot_at",
    "last_edition_on",
)
Email = Annotated[str, typer.Argument(metavar="EMAIL")]


@app.command()
def add(
    email: Email,
    topic: Annotated[
        list[str] | None, typer.Option("--topic", help="A query to follow; may repeat.")
    ] = None,
    hour: Annotated[int, typer.Option(min=0, max=23, help="Local hour of the mail.")] = 8,
    timezone: Annotated[str, typer.Option(help="IANA name, e.g. Europe/Paris.")] = "UTC",
    frequency: Annotated[Frequency, typer.Option()] = Frequency.DAILY,
    weekday: Annotated[str, typer.Option(help="Of a weekly digest.")] = "monday",
    max_papers: Annotated[int | None, typer.Option("--max", min=1, max=50)] = None,
    breadth: Annotated[
        str, typer.Option(help="Matching: fewer (strict), balanced or more (broad).")
    ] = "balanced",
    confirmed: Annotated[
        bool,
        typer.Option("--confirmed", help="They have agreed already: send no confirmation mail."),
    ] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Add a subscriber; without --confirmed, send a confirmation mail first."""
    clock, built = moment(now), services()
    try:
        day = members.weekday(weekday)
    except PaperboyError as error:
        raise UsageError(f"--{error}") from None
    schedule = Schedule(time(hour), timezone, frequency, day)
    choices = Choices(
        signup.parse_queries(topic or ()),
        schedule,
        max_papers or built.settings.max_papers,
        breadth=breadth_of(breadth),
    )
    signup.add(
        built.engine,
        email,
        choices,
        confirmed=confirmed,
        suppression_key=built.suppression_key,
        now=clock,
    )
    _show_one(built, email, as_json=as_json)


def breadth_of(name: str) -> Breadth:
    try:
        return members.breadth(name)
    except PaperboyError as error:
        raise UsageError(f"--{error}") from None


@app.command("list")
def list_subscribers(
    limit: Limit = None, before: Before = None, after: After = None, as_json: AsJson = False
) -> None:
    """List subscribers, the newest last."""
    page = Page(after, before, most(limit, as_json=as_json))
    rows = (_row(*entry) for entry in signup.everyone(services().engine, page))
    show(rows, COLUMNS, as_json=as_json, empty="No subscribers yet.")


@app.command("show")
def show_subscriber(email: Email, as_json: AsJson = False) -> None:
    """Show a subscriber, with the topics and the time of the next digest."""
    _show_one(services(), email, as_json=as_json)


def _show_one(built: Services, email: str, *, as_json: bool) -> None:
    row = _row(*signup.find(built.engine, email))
    if as_json:
        lines([row])
        return
    show(
        ({"": name, "value": value} for name, value in row.items()),
        ("", "value"),
        as_json=False,
        empty="",
    )


@app.command("import")
def import_csv(
    path: Annotated[str, typer.Argument(metavar="CSV|-", help="A file; -: stdin.")],
    confirmed: Annotated[
        bool,
        typer.Option(
            "--confirmed", help="You can prove the consent of active ones: send no confirmation."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show the result for each row.")
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(
            "--rejects", metavar="FILE", help="File for the rows that cannot be imported."
        ),
    ] = None,
    skip_hashes: Annotated[
        bool,
        typer.Option(
            "--skip-hashes", help="Leave out suppressed hashes made with another SUPPRESSION_KEY."
        ),
    ] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Import subscribers from a CSV file: our own export, a spreadsheet or another newsletter.

    From our own export each subscriber keeps the status, and no mail is sent. From another list,
    the active subscribers get a confirmation mail unless you use --confirmed; if an address
    unsubscribed, bounced or complained there, it stays so. Delimiter, encoding and columns are
    detected; docs/moving.md lists the column names. Rows that cannot be imported are
    reported, the others are added, and the exit code is 1.
    """
    built = services()
    run = signup.transfer.Import(
        built.engine,
        built.suppression_key,
        moment(now),
        max_papers=built.settings.max_papers,
        confirmed=confirmed,
        skip_hashes=skip_hashes,
        dry_run=dry_run,
    )
    counts: Counter[tuple[str, str]] = Counter()
    with _opened(path) as binary, _rejected(rejects) as reject:
        given = signup.csv_lists.SubscriberList(binary, path)
        for imported in run.run(given):
            counts[imported.outcome, imported.status] += 1
            row = _imported_row(imported)
            if imported.outcome is ImportReport.REJECTED:
                reject([str(imported.record.line), imported.reason, *imported.record.raw])
                if not as_json:
                    complain(f"line {imported.record.line}: {imported.email}: {imported.reason}")
            if as_json:
                lines([row])
    if not as_json:
        rows = [
            {"outcome": outcome, "status": status, "rows": count}
            for (outcome, status), count in sorted(counts.items())
        ]
        show(rows, ("outcome", "status", "rows"), as_json=False, empty="The file has no rows.")
    if dry_run:
        complain("dry run: nothing was stored")
    if any(outcome == ImportReport.REJECTED for outcome, _ in counts):
        raise typer.Exit(1)


def _imported_row(imported: Imported) -> dict[str, Any]:
    return {
        "line": imported.record.line,
        "email": imported.email,
        "outcome": imported.outcome,
        "status": imported.status,
        "reason": imported.reason,
    }


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that is read twice; stdin is spooled to a temporary file first."""
    try:
        if path == "-":
            with SpooledTemporaryFile(max_size=8_000_000) as buffer:
                shutil.copyfileobj(sys.stdin.buffer, buffer)
                yield buffer  # type: ignore[misc]
            return
        with open(path, "rb") as binary:
            yield binary
    except (OSError, UnicodeError) as error:
        raise PaperboyError(f"{path}: {error}") from error


@contextmanager
def _rejected(path: Path | None) -> Iterator[Callable[[list[str]], object]]:
    """Yield a function that writes a rejected row to `path`; without a path it does nothing."""
    if path is None:
        yield lambda _row: None
        return
    with new_private_file(path) as file:
        writer = csv.writer(file)
        writer.writerow(["line", "reason", "row"])
        yield lambda row: writer.writerow(map(signup.csv_lists.escape_cell, row))


@app.command("export")
def export_csv(
    path: Annotated[str, typer.Argument(metavar="CSV|-", help="A new file; -: stdout.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if there is one.")
    ] = False,
) -> None:
    """Export all subscribers and suppressed addresses to a CSV file that `import` reads.

    Anyone with the file can unsubscribe every subscriber in it: protect it like the database.
    """
    built = services()
    rows = signup.transfer.export_rows(built.engine, built.suppression_key)
    if path == "-":
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
        _write(sys.stdout, rows)
        return
    with new_private_file(Path(path), force=force) as file:
        _write(file, rows)


def _write(file: TextIO, rows: Iterable[Mapping[str, str]]) -> None:
    escape = signup.csv_lists.escape_cell
    writer = csv.writer(file, lineterminator="\r\n" if file is not sys.stdout else "\n")
    writer.writerow(signup.csv_lists.OURS)
    writer.writerows([escape(cell) for cell in row.values()] for row in rows)


@app.command()
def records(email: Email) -> None:
    """Print all records about a subscriber as JSON, for a GDPR access request."""
    lines([signup.export_of(services().engine, email)])


@app.command()
def erase(email: Email) -> None:
    """Erase a subscriber and the address; a suppression stays."""
    signup.erase(services().engine, email)


def _row(subscriber: Subscriber, topics: tuple[str, ...]) -> dict[str, Any]:
    schedule = subscriber.schedule
    return {
        "id": subscriber.id,
        "email": subscriber.email,
        "status": subscriber.status,
        "topics": list(topics),
        "hour": schedule.at.hour,
        "timezone": schedule.timezone,
        "frequency": schedule.frequency,
        "weekday": schedule.weekday.name.casefold(),
        "max_papers": subscriber.max_papers,
        "breadth": subscriber.breadth.name.casefold(),
        "paused_until": subscriber.paused_until,
        "pause_reason": signup.pause_reason(subscriber),
        "next_slot_at": subscriber.next_slot_at,
        "last_edition_on": subscriber.last_edition_on,
        "cursor": subscriber.cursor,
    }


# --- Suppressions -------------------------------------------------------------------------------


@suppressions_app.command("list")
def list_suppressions(
    since: Since = None,
    limit: Limit = None,
    before: Annotated[
        str | None, typer.Option("--before", metavar="HASH", help="Only those older than this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the hashes of suppressed addresses, the newest last."""
    rows = _suppression_rows(midnight(since), before, most(limit, as_json=as_json))
    show(rows, ("hash", "reason", "since"), as_json=as_json, empty="No address is suppressed.")


def _suppression_rows(
    since: datetime | None, before: str | None, limit: int | None
) -> Iterator[dict[str, Any]]:
    with read_only(services().engine) as conn:
        known = suppressions.by_hash(conn, before) if before else None
        if before and known is None:
            raise UsageError(f"--before: {before!r} is not a hash in this list")
        for one in suppressions.listed(conn, since=since, before=known, limit=limit):
            yield {"hash": one.hash, "reason": one.reason, "since": one.since}


@suppressions_app.command()
def undo(
    since: Annotated[str, typer.Option(metavar="ISO", help="Only suppressions made since then.")],
    until: Annotated[
        str | None, typer.Option(metavar="ISO", help="Only those made before then.")
    ] = None,
    reason: Annotated[
        list[str] | None, typer.Option(help="hard, soft or full; may repeat. All, if not given.")
    ] = None,
    reply: Annotated[
        str, typer.Option(metavar="TEXT", help="Only those whose reply contains this text.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Lift many suppressions at once, with their strikes, and queue again the mail they ended.

    Complaints, suppressions by hand and subscribers who have left are never touched.
    """
    built, now = services(), datetime.now(UTC)
    found = suppression.undoable(
        built.engine,
        _time("--since", since),
        _time("--until", until) if until else None,
        _reasons(reason or ()),
        reply,
    )
    groups = Counter(
        (one.reason, one.edition_on, f"{one.since:%Y-%m-%d}", one.wording) for one in found
    )
    rows = [
        {"reason": why, "edition": edition, "day": day, "reply": said, "count": count}
        for (why, edition, day, said), count in groups.most_common()
    ]
    show(
        rows,
        ("reason", "edition", "day", "reply", "count"),
        as_json=as_json,
        empty="No suppressions match.",
    )
    lifted = 0 if dry_run else suppression.undo(built.engine, found, now)
    if as_json:
        lines([{"found": len(found), "lifted": lifted, "dry_run": dry_run}])
    else:
        typer.echo(f"{len(found)} found, {lifted} lifted" + (" (dry run)" if dry_run else ""))


def _time(option: str, text: str) -> datetime:
    """Parse an ISO date or time; UTC if it has no time zone. Raise UsageError."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option}: {text!r} is not an ISO time such as 2030-01-02T08:00"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _reasons(names: Iterable[str]) -> tuple[SuppressionReason, ...]:
    """Return the named reasons, or all that a refusal can lead to. Raise UsageError."""
    allowed = {str(reason): reason for reason in guard.OURS}
    for name in names:
        if name not in allowed:
            raise UsageError(f"--reason: {name!r} is not hard, soft or full")
    return tuple(allowed[name] for name in names) or guard.OURS


@suppressions_app.command("add")
def add_suppression(
    emails: Annotated[list[str], typer.Argument(metavar="EMAIL...", help="One or more.")],
) -> None:
    """Suppress addresses, and cancel their queued deliveries."""
    built = services()
    addresses = [signup.valid_address(email) for email in emails]
    for address in addresses:
        suppression.suppress(built.engine, address, built.suppression_key, datetime.now(UTC))


@suppressions_app.command("remove")
def remove_suppression(email: Email) -> None:
    """Lift the suppression of an address, even after a complaint."""
    built = services()
    suppression.lift(built.engine, email, built.suppression_key)
