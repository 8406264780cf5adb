"""Exceptions that Paperboy raises on purpose.

* PaperboyError
  - SettingsError      a setting is missing or malformed; names it
  - SchemaError        the database schema is behind the code, or ahead of it
  - DatabaseFileError  the file of a SQLite database was replaced, deleted or open over a fork
  - SourceError        a source could not be read; carries `source`, `retryable`, `retry_at`
  - LeaseLostError     another process took over our lease
  - QueryError         a topic could not be parsed; carries `query` and `position`
  - AddressError       an email address cannot be written to
  - ConflictError      the record has changed since the form was shown
  - LimitError         a rate limit was exceeded; carries `retry_at`
  - NotFoundError      the named thing does not exist
  - RenderError        a template did not produce a mail
  - InvalidTokenError  a link was altered, or is not valid any more
      - ExpiredTokenError  the link has expired
  - ForgedError        a webhook has no valid signature, or one that is too old
  - EventError         a signed webhook could not be parsed
  - ProviderError      a provider did not answer yet; the webhook may be retried
  - MailboxError       a mailbox could not be read
  - ServiceError       an embedded service did not start
  - UnansweredError    no DNS server answered whether a record exists
  - TransportError     no mail server could be reached, or it rejects all our mail
      - RefusedError       an immediate retry is useless: a setting is wrong, or sending is held
"""

from __future__ import annotations

from datetime import datetime


class PaperboyError(Exception):
    """Base class, so that an entry point can catch our exceptions and no others."""


class SettingsError(PaperboyError):
    """A setting is missing or malformed."""


class SchemaError(PaperboyError):
    """The database does not have the tables that this code requires."""


class DatabaseFileError(PaperboyError):
    """The file of a SQLite database is no longer the one that this process opened."""


class SourceError(PaperboyError):
    """A source could not be read.

    `retryable` is False if a retry cannot help (a malformed answer file, a rejected request).
    `retry_at` is the earliest retry that the source allows, if it named one.
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
    """Another process holds the lease; the pending write must be abandoned."""


class QueryError(PaperboyError):
    """A topic that could not be parsed. `position` is the 0-based index of the wrong character."""

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
    """A rate limit per client, reader or site was exceeded; reveals nothing about any address."""

    def __init__(self, message: str, *, retry_at: datetime) -> None:
        super().__init__(message)
        self.retry_at = retry_at


class NotFoundError(PaperboyError):
    """The named thing does not exist."""


class RenderError(PaperboyError):
    """A template did not produce a mail."""


class InvalidTokenError(PaperboyError):
    """A link was altered, or is not valid any more."""


class ExpiredTokenError(InvalidTokenError):
    """A link of ours has expired."""


class ForgedError(PaperboyError):
    """A webhook that no trusted party has signed, or that was signed too long ago."""


class EventError(PaperboyError):
    """A signed webhook that could not be parsed."""


class ProviderError(PaperboyError):
    """A provider did not answer yet, so its webhook is not verified; it may be retried."""


class MailboxError(PaperboyError):
    """A mailbox that could not be read."""


class ServiceError(PaperboyError):
    """An embedded service that did not start."""


class UnansweredError(PaperboyError):
    """No DNS server answered whether a record exists."""


class TransportError(PaperboyError):
    """No mail server could be reached, or it rejects all our mail (login, TLS, policy)."""


class RefusedError(TransportError):
    """The server rejects all our mail, or sending is held: an immediate retry is useless."""
