"""The readers of the demo, and the mail that each received."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.domain import DeliveryStatus, Digest, Schedule
from pipeline.storage.deliveries import DeliveryView


@dataclass(frozen=True, slots=True)
class Reader:
    email: str
    timezone: str
    topics: tuple[str, ...]
    max_papers: int


READERS = (
    Reader(
        "ada@example.org",
        "Europe/London",
        ("agents", "reinforcement learning", '"large language models" reasoning'),
        8,
    ),
    Reader(
        "grace@example.net",
        "America/New_York",
        ("video generation", "diffusion", "vision-language models"),
        6,
    ),
    Reader("rohini@example.com", "Asia/Kolkata", ("Trending", "retrieval", "robotics"), 10),
)


@dataclass(frozen=True, slots=True)
class Post:
    """Result for one reader; `delivery` and `digest` are None if there was nothing to send."""

    reader: Reader
    schedule: Schedule
    delivery: DeliveryView | None
    digest: Digest | None
    eml: bytes | None  # as received by the mailbox
    html: str | None

    @property
    def has_arrived(self) -> bool:
        sent = self.delivery is not None and self.delivery.status is DeliveryStatus.SENT
        return sent and self.eml is not None
