"""Commands that pause and resume sending, and pause, resume and cancel editions."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer

from pipeline.bootstrap import services
from pipeline.cli.output import AsJson, UsageError, day, lines, show
from pipeline.dispatch import controls, throttle
from pipeline.domain import DeliveryStatus
from pipeline.storage import delivery_queries, send_controls, throttles
from pipeline.storage.database import read_only

editions = typer.Typer(no_args_is_help=True)
sending = typer.Typer(no_args_is_help=True)

EDITIONS = ("edition", "paused", "queued", "sent", "uncertain", "failed", "cancelled", "expired")
STATE = ("what", "name", "since", "until", "mails_a_minute", "at_once", "reason")

Edition = Annotated[str, typer.Argument(metavar="DATE", help="Date of the edition, YYYY-MM-DD.")]
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Shown with the pause.")]


# --- Editions -----------------------------------------------------------------------------------


@editions.command("list")
def list_editions(as_json: AsJson = False) -> None:
    """List all editions, newest first, with their deliveries by status."""
    with read_only(services().engine) as conn:
        counts = delivery_queries.edition_counts(conn)
        held = {hold.edition_on for hold in send_controls.list_pauses(conn)}
    days = sorted({*counts, *filter(None, held)}, reverse=True)
    rows = (_edition_row(one, counts.get(one, {}), paused=one in held) for one in days)
    show(rows, EDITIONS, as_json=as_json, empty="No editions.")


def _edition_row(
    edition_on: date, counts: dict[DeliveryStatus, int], *, paused: bool
) -> dict[str, Any]:
    def total(*statuses: DeliveryStatus) -> int:
        return sum(counts.get(status, 0) for status in statuses)

    status = DeliveryStatus
    return {
        "edition": edition_on,
        "paused": paused,
        "queued": total(status.QUEUED, status.LEASED, status.SENDING),
        "sent": total(status.SENT),
        "uncertain": total(status.UNCERTAIN),
        "failed": total(status.FAILED, status.SUPPRESSED),
        "cancelled": total(status.CANCELLED),
        "expired": total(status.EXPIRED),
    }


@editions.command()
def pause(edition: Edition, reason: Why = "", as_json: AsJson = False) -> None:
    """Pause an edition until it is resumed; its digests still expire."""
    paused = controls.stop(services().engine, datetime.now(UTC), _day(edition), reason)
    _answer(as_json, edition=edition, state="paused", changed=paused)


@editions.command()
def resume(edition: Edition, as_json: AsJson = False) -> None:
    """Resume sending an edition."""
    resumed = controls.start(services().engine, _day(edition))
    _answer(as_json, edition=edition, state="resumed", changed=resumed)


@editions.command()
def cancel(edition: Edition, as_json: AsJson = False) -> None:
    """Cancel an edition for good; its papers come with the next digest."""
    ended = controls.cancel(services().engine, _day(edition))
    _answer(as_json, edition=edition, state="cancelled", deliveries=ended)


def _day(text: str) -> date:
    parsed = day(text, "DATE")
    if parsed is None:
        raise UsageError("DATE: use a date such as 2030-01-02")
    return parsed


# --- All sending --------------------------------------------------------------------------------


@sending.command()
def stop(reason: Why = "", as_json: AsJson = False) -> None:
    """Stop all sending until `sending start`, even if workers are restarted."""
    stopped = controls.stop(services().engine, datetime.now(UTC), None, reason)
    _answer(as_json, state="stopped", changed=stopped)


@sending.command()
def start(as_json: AsJson = False) -> None:
    """Resume all sending, even to a server that has rejected our mail."""
    started = controls.start(services().engine)
    _answer(as_json, state="started", changed=started)


@sending.command()
def release(domain: str, as_json: AsJson = False) -> None:
    """Remove the throttle or block of a recipient domain at once."""
    controls.release(services().engine, domain.lower())
    _answer(as_json, state="released", domain=domain.lower())


@sending.command()
def status(as_json: AsJson = False) -> None:
    """Show which holds, blocks and throttles are active, and why."""
    show(_state_rows(), STATE, as_json=as_json, empty="Nothing is paused, blocked or throttled.")


def _state_rows() -> Iterable[dict[str, Any]]:
    with read_only(services().engine) as conn:
        held, breaker, slowed = (
            send_controls.list_pauses(conn),
            send_controls.circuit_breaker(conn),
            throttles.list_all(conn),
        )
    for hold in held:
        name = hold.edition_on or send_controls.EVERYTHING
        yield _state("held", name, hold.since, reason=hold.reason)
    if breaker:
        yield _state(
            "server",
            send_controls.SMTP,
            breaker.since,
            until=breaker.open_until,
            reason=breaker.reply,
        )
    for one in slowed:
        yield _state(
            one.state,
            one.domain,
            one.since,
            until=one.not_before,
            mails_a_minute=round(one.allowance, 1),
            at_once=throttle.most_in_flight(one),
            reason=one.reply,
        )


def _state(what: str, name: Any, since: datetime, **values: Any) -> dict[str, Any]:
    """Return a row with all fields of STATE, in its order."""
    state = {"what": what, "name": name, "since": since, **values}
    return {field: state.get(field) for field in STATE}


def _answer(as_json: bool, **fields: Any) -> None:
    if as_json:
        lines([fields])
        return
    typer.echo(", ".join(f"{name} {value}" for name, value in fields.items() if value is not None))
