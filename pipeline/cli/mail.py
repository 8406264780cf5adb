"""Commands about mail: publish, preview, send, deliveries."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from pipeline.bootstrap import Services, services
from pipeline.cli.output import (
    After,
    AsJson,
    Before,
    Limit,
    Now,
    Since,
    complain,
    day,
    lines,
    midnight,
    moment,
    most,
    show,
)
from pipeline.dispatch import DispatchStoppedError, Tally
from pipeline.domain import DeliveryStatus
from pipeline.editions import SlotResult
from pipeline.errors import NotFoundError, PaperboyError
from pipeline.storage import deliveries, delivery_queries, digests, send_controls, subscribers
from pipeline.storage.database import Page, in_pages, read_only
from pipeline.storage.deliveries import Resolution
from pipeline.storage.delivery_queries import DeliveryView, Wanted
from pipeline.storage.send_controls import Pause

app = typer.Typer()
deliveries_app = typer.Typer(invoke_without_command=True)

PUBLISHED = ("subscriber", "email", "kind", "edition", "papers", "outcome", "reason", "noted")
OWED = ("id", "email", "kind", "edition", "status", "attempts", "message_id", "reason", "papers")


@app.command()
def publish(
    everyone: Annotated[
        bool, typer.Option("--all", help="At any hour; still at most one edition a day.")
    ] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Compile the digests that are due into the outbox."""
    outcomes = services().publish(moment(now), everyone=everyone)
    rows = map(_outcome_row, outcomes)
    show(rows, PUBLISHED, as_json=as_json, empty="No digest is due.")


def _outcome_row(outcome: SlotResult) -> dict[str, Any]:
    return {
        "subscriber": outcome.subscriber_id,
        "email": outcome.email,
        "kind": outcome.kind,
        "edition": outcome.edition_on,
        "papers": list(outcome.papers),
        "outcome": "skipped" if outcome.skipped else "queued",
        "reason": outcome.skipped,
        "noted": outcome.noted,
    }


@app.command()
def preview(
    email: str,
    html: Annotated[Path | None, typer.Option("--html", help="Write the HTML part here.")] = None,
    text: Annotated[Path | None, typer.Option("--text", help="Write the text part here.")] = None,
    eml: Annotated[Path | None, typer.Option("--eml", help="Write the whole mail here.")] = None,
    send_to: Annotated[
        str | None,
        typer.Option("--send-to", metavar="ADDRESS", help="Send it once to this address."),
    ] = None,
    now: Now = None,
) -> None:
    """Render a subscriber's next digest; changes nothing."""
    shown = services().preview(email, moment(now))
    for path, words in ((html, shown.html.encode()), (text, shown.text.encode()), (eml, shown.eml)):
        if path is not None:
            _write(path, words)
    if send_to is not None:
        services().send_preview(email, send_to, moment(now))
    if not (html or text or eml or send_to):
        typer.echo(f"Subject: {shown.subject}\n\n{shown.text}")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise PaperboyError(f"{path}: {error}") from error


@app.command()
def send(
    once: Annotated[bool, typer.Option("--once", help="Until nothing is due.")] = False,
    now: Now = None,
    as_json: AsJson = False,
) -> None:
    """Send the due deliveries of the outbox, from this process."""
    clock = moment(now) if now else None
    with _stop_flag() as stopping:
        try:
            tally = services().dispatch(once=once, clock=clock, stop=stopping)
        except DispatchStoppedError as error:
            tally = error.tally
            if not error.refused:
                _show_tally(tally, as_json=as_json)
                raise
            complain(str(error))  # the server was reached; queued mail is retried automatically
    _show_tally(tally, as_json=as_json)
    with read_only(services().engine) as conn:
        for hold in send_controls.list_pauses(conn):
            complain(_held(hold))


def _held(hold: Pause) -> str:
    if hold.edition_on is None:
        return f"sending is stopped ({hold.reason}): `paperboy sending start` resumes it"
    again = f"`paperboy editions resume {hold.edition_on}` resumes it"
    return f"the edition of {hold.edition_on} is paused ({hold.reason}): {again}"


@contextmanager
def _stop_flag() -> Iterator[Any]:
    """Replace SIGTERM and Ctrl-C by a flag; yield the function that returns it.

    The drain then finishes the messages being sent and gives the others back.
    """
    stopped: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    for name in before:
        signal.signal(name, lambda number, _frame: stopped.append(number))
    try:
        yield lambda: bool(stopped)
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _show_tally(tally: Tally, *, as_json: bool) -> None:
    names = ("sent", "deferred", "failed", "uncertain", "cancelled", "expired")
    row = {name: getattr(tally, name) for name in names}
    show([row], names, as_json=as_json, empty="")


@deliveries_app.callback()
def list_deliveries(
    context: typer.Context,
    status: Annotated[
        DeliveryStatus | None, typer.Option("--status", help="Only those in this status.")
    ] = None,
    email: Annotated[
        str | None, typer.Option("--email", help="Only those to this subscriber.")
    ] = None,
    edition: Annotated[
        str | None, typer.Option("--edition", metavar="DATE", help="Only those of this edition.")
    ] = None,
    since: Since = None,
    limit: Limit = None,
    before: Before = None,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """List deliveries and their status, the newest last."""
    if context.invoked_subcommand:
        return
    built = services()
    wanted = Wanted(
        status,
        _subscriber_id(built, email) if email else None,
        day(edition, "--edition"),
        midnight(since),
    )
    rows = in_pages(
        built.engine,
        Page(after, before, most(limit, as_json=as_json)),
        lambda conn, part: delivery_queries.list_ids(conn, part, wanted),
        partial(_delivery_rows, built),
    )
    show(rows, OWED, as_json=as_json, empty="No deliveries.")


def _subscriber_id(built: Services, email: str) -> int:
    with read_only(built.engine) as conn:
        found = subscribers.by_email(conn, email)
    if found is None:
        raise NotFoundError("no subscriber has this address")
    return found.id


def _delivery_rows(
    built: Services, conn: Connection, ids: Sequence[int]
) -> Iterator[dict[str, Any]]:
    papers = digests.papers_of(conn, ids)
    for view in delivery_queries.list_views(conn, ids):
        yield _delivery_row(built, view, papers[view.id])


def _delivery_row(built: Services, view: DeliveryView, papers: list[str]) -> dict[str, Any]:
    return {
        "id": view.id,
        "email": view.email,
        "kind": view.kind,
        "edition": view.edition_on,
        "status": view.status,
        "attempts": view.attempts,
        "message_id": built.message_id(view.dedupe_key),
        "reason": view.reason,
        "papers": papers,
    }


@deliveries_app.command()
def resolve(
    delivery_id: Annotated[int, typer.Argument(metavar="ID")],
    resend: Annotated[bool, typer.Option("--resend", help="Send it again.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Count it as accepted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Resolve an uncertain delivery: send it again, or count it as accepted."""
    if resend == drop:
        raise typer.BadParameter("say one of --resend and --drop")
    decision = Resolution.RESEND if resend else Resolution.DROP
    with services().engine.begin() as conn:
        deliveries.resolve(conn, delivery_id, decision, datetime.now(UTC))
    if as_json:
        lines([{"id": delivery_id, "resolution": decision}])
