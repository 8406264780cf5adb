"""Commands about subscribers and suppressions."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import signup
from pipeline.bootstrap import Services, services
from pipeline.cli.output import AsJson, Now, UsageError, lines, moment, show
from pipeline.domain import (
    Breadth,
    Frequency,
    Origin,
    Schedule,
    Subscriber,
    SubscriberStatus,
    SuppressionReason,
    Weekday,
)
from pipeline.errors import PaperboyError
from pipeline.feedback import suppressing
from pipeline.signup import Wishes
from pipeline.storage import guard, subscribers
from pipeline.storage.database import reading

app = typer.Typer(no_args_is_help=True)
suppressions = typer.Typer(no_args_is_help=True)

COLUMNS = (
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
    "next_slot_at",
    "last_edition_on",
)
CSV_COLUMNS = (
    "email",
    "status",
    "topics",
    "hour",
    "timezone",
    "frequency",
    "weekday",
    "max_papers",
    "breadth",
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
        str, typer.Option(help="How much comes in: fewer (surer), balanced or more (broader).")
    ] = "balanced",
    confirmed: Annotated[
        bool, typer.Option("--confirmed", help="They have agreed already: no mail to confirm.")
    ] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Add a subscriber; without --confirmed they are asked by mail first."""
    clock, built = moment(now), services()
    schedule = Schedule(time(hour), timezone, frequency, weekday_of(weekday))
    wishes = Wishes(
        tuple(topic or ()),
        schedule,
        max_papers or built.settings.max_papers,
        breadth=breadth_of(breadth),
    )
    signup.add(
        built.engine,
        email,
        wishes,
        confirmed=confirmed,
        suppression_key=built.suppression_key,
        now=clock,
    )
    _show_one(built, email, as_json=as_json)


def weekday_of(name: str) -> Weekday:
    """A weekday by its English name, its first letters or its number (0 is Monday)."""
    folded = name.strip().casefold()
    for day in Weekday:
        if folded == str(int(day)) or (len(folded) >= 2 and day.name.casefold().startswith(folded)):
            return day
    raise UsageError(f"--weekday: {name!r} is no day of the week")


def breadth_of(name: str) -> Breadth:
    try:
        return Breadth[name.strip().upper()]
    except KeyError:
        raise UsageError(f"--breadth: {name!r} is not fewer, balanced or more") from None


@app.command("list")
def list_subscribers(as_json: AsJson = False) -> None:
    """Every subscriber."""
    rows = (_row(*known) for known in signup.everyone(services().engine))
    show(rows, COLUMNS, as_json=as_json, empty="No subscribers yet.")


@app.command("show")
def show_subscriber(email: Email, as_json: AsJson = False) -> None:
    """One subscriber, with what they follow and when they are written to next."""
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
    path: Annotated[Path, typer.Argument(metavar="CSV")], now: Now = None, as_json: AsJson = False
) -> None:
    """Add the subscribers of a CSV file; those who have agreed say status `active`.

    Columns: email, and where wanted status, topics (separated by `;`), hour, timezone, frequency,
    weekday, max_papers, breadth. A row that cannot be taken is named, the others are added.
    """
    clock, built = moment(now), services()
    rows = [_import_row(built, number, row, clock) for number, row in _csv_rows(path)]
    show(rows, ("line", "email", "outcome"), as_json=as_json, empty="The file has no rows.")
    if any(row["outcome"] != "added" for row in rows):
        raise typer.Exit(1)


def _csv_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if "email" not in (reader.fieldnames or ()):
                raise PaperboyError(f"{path}: the first line must name its columns, with email")
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PaperboyError(f"{path}: {error}") from error


def _import_row(
    built: Services, number: int, row: Mapping[str, str | None], clock: datetime
) -> dict[str, Any]:
    email = row.get("email") or ""
    try:
        signup.add(
            built.engine,
            email,
            _wishes(built, row),
            confirmed=(row.get("status") or "") == SubscriberStatus.ACTIVE,
            suppression_key=built.suppression_key,
            now=clock,
            origin=Origin.IMPORT,
        )
    except (PaperboyError, ValueError, typer.BadParameter) as error:
        return {"line": number, "email": email, "outcome": str(error)}
    return {"line": number, "email": email, "outcome": "added"}


def _wishes(built: Services, row: Mapping[str, str | None]) -> Wishes:
    topics = tuple(t.strip() for t in (row.get("topics") or "").split(";") if t.strip())
    schedule = Schedule(
        time(int(row.get("hour") or 8)),
        row.get("timezone") or "UTC",
        Frequency(row.get("frequency") or Frequency.DAILY),
        weekday_of(row.get("weekday") or "monday"),
    )
    max_papers = int(row.get("max_papers") or built.settings.max_papers)
    if not 1 <= max_papers <= 50:
        raise PaperboyError(f"max_papers: {max_papers} is not between 1 and 50")
    return Wishes(
        topics, schedule, max_papers, breadth=breadth_of(row.get("breadth") or "balanced")
    )


@app.command("export")
def export_csv(path: Annotated[Path, typer.Argument(metavar="CSV")]) -> None:
    """Write every subscriber to a CSV file that `import` reads."""
    rows = [_row(*known) for known in signup.everyone(services().engine)]
    try:
        with open(path, "w", encoding="utf-8", newline="", opener=_private) as file:
            writer = csv.DictWriter(file, CSV_COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(row | {"topics": "; ".join(row["topics"])} for row in rows)
    except OSError as error:
        raise PaperboyError(f"{path}: {error}") from error


def _private(path: str, flags: int) -> int:
    """A list of people is for whoever made it."""
    return os.open(path, flags, 0o600)


@app.command()
def records(email: Email) -> None:
    """Everything that is kept about one subscriber, as JSON: what they may ask you for."""
    lines([signup.export_of(services().engine, email)])


@app.command()
def erase(email: Email) -> None:
    """Remove an address and everything about its subscriber; a suppression stays."""
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
        "next_slot_at": subscriber.next_slot_at,
        "last_edition_on": subscriber.last_edition_on,
        "cursor": subscriber.cursor,
    }


# --- Suppressions -------------------------------------------------------------------------------


@suppressions.command("list")
def list_suppressions(as_json: AsJson = False) -> None:
    """Addresses we do not write to, by their hash."""
    with reading(services().engine) as conn:
        known = subscribers.suppressions(conn)
    rows = ({"hash": s.hash, "reason": s.reason, "since": s.since} for s in known)
    show(rows, ("hash", "reason", "since"), as_json=as_json, empty="No address is suppressed.")


@suppressions.command()
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
    """Lift many suppressions at once, with their strikes, and owe again what they ended.

    Complaints, suppressions by hand and readers who have left are never touched.
    """
    built, now = services(), datetime.now(UTC)
    found = suppressing.undoable(
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
        empty="No suppression fits.",
    )
    lifted = 0 if dry_run else suppressing.undo(built.engine, found, now)
    if as_json:
        lines([{"found": len(found), "lifted": lifted, "dry_run": dry_run}])
    else:
        typer.echo(f"{len(found)} found, {lifted} lifted" + (" (dry run)" if dry_run else ""))


def _time(option: str, text: str) -> datetime:
    """An ISO date or time; UTC where it names no zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is no ISO time such as 2030-01-02T08:00") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _reasons(names: Iterable[str]) -> tuple[SuppressionReason, ...]:
    """Those named, or all that a refusal can lead to."""
    allowed = {str(reason): reason for reason in guard.OURS}
    for name in names:
        if name not in allowed:
            raise UsageError(f"--reason: {name!r} is not hard, soft or full")
    return tuple(allowed[name] for name in names) or guard.OURS


@suppressions.command("add")
def add_suppression(email: Email) -> None:
    """Never write to this address again; what it is owed is cancelled."""
    built = services()
    address = signup.valid_address(email)
    suppressing.suppress(built.engine, address, built.suppression_key, datetime.now(UTC))


@suppressions.command("remove")
def remove_suppression(email: Email) -> None:
    """Write to this address again, even after a complaint."""
    built = services()
    suppressing.lift(built.engine, email, built.suppression_key)
