"""Everything Paperboy raises on purpose.

* PaperboyError
  - SettingsError      a setting is missing or malformed; names it
  - SchemaError        the database is behind the code, or ahead of it
  - DatabaseFileError  the file of a SQLite database was replaced, deleted or open over a fork
  - SourceError        a source could not be read; carries `source`, `retryable`, `retry_at`
  - LeaseLostError     somebody else took over what we were doing
  - QueryError         a topic that cannot be read; carries `query` and `position`
  - AddressError       an email address that cannot be written to
  - ConflictError      the record has changed since the form was shown
  - LimitError         too much was asked for from one place; carries `retry_at`
  - NotFoundError      the named thing does not exist
  - RenderError        a template did not produce a mail
  - InvalidTokenError  a link was altered, or cannot be used any more
      - ExpiredTokenError  its time is over
  - ForgedError        news that nobody we trust has signed
  - EventError         signed news that cannot be read
  - ProviderError      a provider could not be asked; what it sent may come again
  - MailboxError       a mailbox that could not be read
  - ServiceError       a service that we bring along did not start
  - UnansweredError    no DNS server told whether a record exists
  - TransportError     no mail server could be reached, or it refuses us as a whole
      - RefusedError       it was reached, and refuses us as a whole: a setting is wrong
"""

from __future__ import annotations

from datetime import datetime


class PaperboyError(Exception):
    """Base class, so that an entry point can catch all of ours and nothing else."""


class SettingsError(PaperboyError):
    """A setting is missing or malformed."""


class SchemaError(PaperboyError):
    """The database does not have the tables this code was written for."""


class DatabaseFileError(PaperboyError):
    """The file of a SQLite database is no longer the one that this process has opened."""


class SourceError(PaperboyError):
    """A source could not be read.

    `retryable` is False where asking again cannot help (a malformed answer file, a refused
    request); `retry_at` is the earliest moment the source allows, where it named one.
    """

    def __init__(
        self,
        source: str,
        message: str,
        *,
        retryable: bool = True,
        retry_at: datetime | None = None,
    ) -> None:
        super().__init__(f"{source}: {message}")
        self.source = source
        self.message = message
        self.retryable = retryable
        self.retry_at = retry_at


class LeaseLostError(PaperboyError):
    """Somebody else holds what we held; whatever we were about to write must not be written."""


class QueryError(PaperboyError):
    """A topic that cannot be read. `position` is the 0-based character it went wrong at."""

    def __init__(self, query: str, message: str, position: int) -> None:
        super().__init__(f"{message}\n  {query}\n  {' ' * position}^")
        self.query = query
        self.message = message
        self.position = position


class AddressError(PaperboyError):
    """An email address that cannot be written to."""


class ConflictError(PaperboyError):
    """The record has changed since the form that would replace it was shown."""


class LimitError(PaperboyError):
    """Too much was asked for from one place, or altogether; it tells nothing about any address."""

    def __init__(self, message: str, *, retry_at: datetime) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class NotFoundError(PaperboyError):
    """The named thing does not exist."""


class RenderError(PaperboyError):
    """A template did not produce a mail."""


class InvalidTokenError(PaperboyError):
    """A link was altered, or cannot be used any more."""


class ExpiredTokenError(InvalidTokenError):
    """The time of a link of ours is over."""


class ForgedError(PaperboyError):
    """News that nobody we trust has signed, or that was signed too long ago."""


class EventError(PaperboyError):
    """Signed news that cannot be read."""


class ProviderError(PaperboyError):
    """A provider could not be asked for what we need to believe it; the same may come again."""


class MailboxError(PaperboyError):
    """A mailbox that could not be read."""


class ServiceError(PaperboyError):
    """A service that we bring along did not start."""


class UnansweredError(PaperboyError):
    """No DNS server told whether a record exists."""


class TransportError(PaperboyError):
    """No mail server could be reached, or it refuses us as a whole (login, TLS, policy)."""


class RefusedError(TransportError):
    """The mail server was reached and refuses us as a whole: trying again at once is of no use."""
