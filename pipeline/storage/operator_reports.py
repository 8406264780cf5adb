"""Reports mailed to the operator: their content, and the gate that lets each be sent only once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from enum import StrEnum

from sqlalchemy import Connection, delete, select, tuple_

from pipeline.domain import MAIL_KINDS, Delivery, DeliveryKind, OperatorReport
from pipeline.storage.database import upsert
from pipeline.storage.schema import OperatorReportRow


class ReportName(StrEnum):
    DAILY = "daily"  # an alert, or that all is well again
    MONTHLY = "monthly"  # its day is the first of the month


def add(
    conn: Connection, name: ReportName, day: date, kind: DeliveryKind, report: OperatorReport
) -> bool:
    """Store a report; return False if the day, or the month, has one already."""
    added = conn.execute(
        upsert(conn, OperatorReportRow)
        .values(name=name, day=day, kind=kind, lines=[list(line) for line in report.lines])
        .on_conflict_do_nothing(index_elements=["name", "day"])
        .returning(OperatorReportRow.day)
    )
    return added.one_or_none() is not None


def latest(conn: Connection, name: ReportName, until: date) -> tuple[date, DeliveryKind] | None:
    """Return day and kind of the latest report up to `until`; later ones are of a wrong clock."""
    row = conn.execute(
        select(OperatorReportRow.day, OperatorReportRow.kind)
        .where(OperatorReportRow.name == name, OperatorReportRow.day <= until)
        .order_by(OperatorReportRow.day.desc())
        .limit(1)
    ).one_or_none()
    return (row.day, DeliveryKind(row.kind)) if row else None


def about(name: ReportName, day: date) -> str:
    """Return the end of the dedupe key of a report's delivery."""
    return f"{name}-{day}"


def load(conn: Connection, claimed: Sequence[Delivery]) -> dict[int, OperatorReport]:
    """Return the reports of these deliveries by delivery id, of those that have one."""
    keys = {one.id: _key(one) for one in claimed if MAIL_KINDS[one.kind].to_operator}
    if not keys:
        return {}
    row = OperatorReportRow
    rows = conn.execute(
        select(row.name, row.day, row.lines).where(
            tuple_(row.name, row.day).in_(list(keys.values()))
        )
    )
    found = {
        (name, day): OperatorReport(tuple((first, second) for first, second in lines))
        for name, day, lines in rows
    }
    return {id_: found[key] for id_, key in keys.items() if key in found}


def _key(delivery: Delivery) -> tuple[str, date]:
    name, _, day = delivery.dedupe_key.rpartition(":")[2].partition("-")
    return name, date.fromisoformat(day)


def delete_old(conn: Connection, before: date) -> None:
    conn.execute(delete(OperatorReportRow).where(OperatorReportRow.day < before))
