"""Celery's Redis transport, extended to drop messages that Celery cannot parse.

kombu trusts the content of Redis. A message that is not JSON, or is JSON of another shape, raises
in the worker's event loop and ends the worker. If it was taken and not acknowledged, it is restored
at the next start and ends that worker, too. A task carries no data, so dropping one costs a minute.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from kombu.transport import redis

log = structlog.get_logger(__name__)

TRANSPORT: Final = f"{__name__}:Transport"
"""Value of Celery's setting `broker_transport`."""

QUEUES: Final = ("ingest", "edition", "dispatch")

_UNPARSABLE: Final = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that answers, or beat, which has no queues and reports no clock."""

    name: str
    queues: tuple[str, ...] = ()
    skew: timedelta = timedelta()  # by which its clock is ahead of ours

    @property
    def is_beat(self) -> bool:
        return self.name.startswith("celerybeat@")


def fault(message: Any) -> str | None:
    """Return the reason why Celery could not parse this message (protocol 2); None if it can.

    https://docs.celeryq.dev/en/stable/internals/protocol.html
    """
    if not isinstance(message, dict):
        return "not an object"
    properties, headers = message.get("properties"), message.get("headers")
    if not isinstance(properties, dict) or not isinstance(headers, dict):
        return "no properties or no headers"
    if not isinstance(properties.get("delivery_tag"), str):
        return "no delivery tag"
    if not isinstance(properties.get("delivery_info"), dict):
        return "no delivery info"
    if not isinstance(headers.get("task"), str) or not isinstance(headers.get("id"), str):
        return "no task or no id"
    return None if _has_arguments(message.get("body"), properties) else "no arguments"


def _has_arguments(body: Any, properties: dict[str, Any]) -> bool:
    """Return whether the body is `[args, kwargs, embed]`, encoded as its properties say."""
    if not isinstance(body, str):
        return False
    try:
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        embedded = json.loads(body)
    except (ValueError, RecursionError, binascii.Error):
        return False
    return (
        isinstance(embedded, list)
        and len(embedded) == 3
        and isinstance(embedded[0], list)
        and isinstance(embedded[1], dict)
    )


class QoS(redis.QoS):
    """Unacknowledged messages. A message that cannot be restored is removed and logged."""

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)
        except _UNPARSABLE as error:
            log.warning("broker.message_dropped", reason=f"cannot be restored: {error!r}"[:200])
            self._remove_from_indices(tag).execute()


class Channel(redis.Channel):
    QoS = QoS

    def _brpop_read(self, **options: Any) -> Any:
        """Deliver the next message; drop it if it is not JSON. Raises other errors of callbacks."""
        try:
            return super()._brpop_read(**options)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("broker.message_dropped", reason=f"not JSON: {error!r}"[:200])
            return True


class Transport(redis.Transport):
    Channel = Channel

    def _deliver(self, message: Any, queue: str) -> None:
        """Pass a message to its consumer, or drop and log it if it is malformed.

        Remote control messages (`.pidbox`) have another format and are not checked. The events
        that workers send each other every two seconds are not used: drop them silently.
        """
        if queue.startswith("celeryev."):
            return
        reason = None if queue.endswith(".pidbox") else fault(message)
        if reason:
            log.warning("broker.message_dropped", queue=queue, reason=reason)
            return
        super()._deliver(message, queue)
