"""Check the delivery invariants after a run: the table against the mail server's ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from pipeline.domain import TERMINAL, DeliveryStatus
from pipeline.storage.schema import DeliveryRow, SubscriberRow


@dataclass(frozen=True)
class Judgement:
    """The result of one run; it holds if `lost` and `twice`, lists of dedupe keys, are empty."""

    deliveries: int
    statuses: dict[str, int]
    accepted: int  # messages that the server answered with 250, including copies
    resent: int  # resent automatically after an uncertain outcome
    copies: int  # second acceptances, among the resent deliveries
    uncertain_but_accepted: int
    most_uncertain: int  # the most uncertain deliveries left by one sender
    lost: tuple[str, ...]
    twice: tuple[str, ...]

    def holds(self, connections: int) -> bool:
        return not self.lost and not self.twice and self.most_uncertain <= connections


def judge(engine: Engine, ledger: Path, message_id: Callable[[str], str]) -> Judgement:
    accepted = Counter(ledger.read_text().splitlines())
    query = select(
        DeliveryRow.dedupe_key,
        DeliveryRow.status,
        DeliveryRow.reason,
        DeliveryRow.lease,
        DeliveryRow.marked_at,
        DeliveryRow.resent_at,
        SubscriberRow.email,
    ).join(SubscriberRow, SubscriberRow.id == DeliveryRow.subscriber_id)
    with engine.connect() as conn:
        rows = conn.execute(query).all()
    times = {row.dedupe_key: accepted[f"{row.email} {message_id(row.dedupe_key)}"] for row in rows}
    uncertain = [row for row in rows if row.status == DeliveryStatus.UNCERTAIN]
    held = Counter(row.lease for row in uncertain)
    resent = {row.dedupe_key for row in rows if row.resent_at}
    lost = [f"{row.dedupe_key}: {wrong}" for row in rows if (wrong := _wrong(row, times))]
    if sum(times.values()) != accepted.total():
        lost.append("the server accepted what no row knows of")
    return Judgement(
        deliveries=len(rows),
        statuses=dict(Counter(row.status for row in rows)),
        accepted=accepted.total(),
        resent=len(resent),
        copies=sum(times[key] - 1 for key in resent if times[key]),
        uncertain_but_accepted=sum(times[row.dedupe_key] > 0 for row in uncertain),
        most_uncertain=max(held.values(), default=0),
        lost=tuple(lost),
        twice=tuple(key for key, n in times.items() if n > (2 if key in resent else 1)),
    )


def _wrong(row: DeliveryRow, times: dict[str, int]) -> str | None:
    """Return how the row contradicts the guarantee, or None if it does not."""
    status, accepted = DeliveryStatus(row.status), times[row.dedupe_key]
    if status is DeliveryStatus.UNCERTAIN:
        return None if row.marked_at else "uncertain without a mark"
    if status not in TERMINAL:
        return f"still {status}"
    if not row.reason:
        return f"{status} without a reason"
    if status is DeliveryStatus.SENT and not accepted and "operator" not in row.reason:
        return "sent, but nobody accepted it"
    if status is not DeliveryStatus.SENT and accepted and not row.resent_at:
        return f"{status}, but it was accepted"
    return None
