"""Parameters that routes share: the application's state, the client and the submitted form."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl

from fastapi import Depends, HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import ImmutableMultiDict

from pipeline import bootstrap, mailbox
from pipeline.translations import gettext
from pipeline.web import client_address, templating
from pipeline.web.papers import recent, search_index
from pipeline.web.subscribe import author_lookup

READ: Final = ["GET", "HEAD"]  # methods of a page


def _state(name: str) -> Any:
    """Return a dependency on an attribute of `app.state`, which `create_app` sets.

    It is a coroutine function: FastAPI runs plain functions in the thread pool.
    """

    async def attribute(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(attribute)


Services = Annotated[bootstrap.Services, _state("services")]
Pages = Annotated[templating.Pages, _state("pages")]
LiveIndex = Annotated[search_index.LiveIndex, _state("live_index")]
RecentPapers = Annotated[recent.RecentPapers, _state("recent")]
CPUBudget = Annotated[client_address.CPUBudget, _state("budget")]
AuthorLookup = Annotated[author_lookup.AuthorLookup, _state("author_lookup")]
WakeEditions = Annotated[Callable[[], None], _state("wake_editions")]
Mailbox = Annotated[mailbox.Mailbox, _state("mailbox")]
StartedAt = Annotated[datetime, _state("started_at")]


async def _client_ip(request: Request, services: Services) -> str | None:
    return client_address.client_ip(request, services.settings.trusted_proxies)


ClientIP = Annotated[str | None, Depends(_client_ip)]
"""Address of the client; None on a socket without addresses."""


# --- Forms --------------------------------------------------------------------------------------

LARGEST_FORM: Final = 128 * 1024
LARGEST_LIST: Final = 1024 * 1024  # of a form with a list of papers; `references` reads 512 KB
WITH_PAPERS: Final = re.compile(r"/subscribe(?:/preview)?|/preferences/[^/]+/start")
LOOKS_UP: Final = re.compile(r"/subscribe|/preferences/[^/]+/start")  # authors in a list of papers
MOST_FIELDS: Final = 500
ENCODING: Final = "application/x-www-form-urlencoded"


def largest_form(path: str) -> int:
    """Return how many octets the form of a path may have."""
    return LARGEST_LIST if WITH_PAPERS.fullmatch(path) else LARGEST_FORM


async def _form(request: Request) -> ImmutableMultiDict[str, str]:
    """Return the normalised fields of a posted form.

    Raise HTTPException 415 for any other encoding (multipart would need checks of its own), 413 if
    the body is over `largest_form`, or all but its `papers` over `LARGEST_FORM`, and 400 if it
    cannot be parsed. A large one is parsed in a thread, since it takes up to a third of a second.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != ENCODING:
        raise HTTPException(415, gettext("This page accepts only its own form."))
    body = bytearray()
    most = largest_form(request.url.path)
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise HTTPException(413, gettext("The form is too large."))
    if len(body) > LARGEST_FORM:
        return await run_in_threadpool(_fields, body)
    return _fields(body)


def _fields(body: bytearray) -> ImmutableMultiDict[str, str]:
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise HTTPException(400, gettext("The form cannot be read.")) from error
    if sum(len(value) for name, value in pairs if name != "papers") > LARGEST_FORM:
        raise HTTPException(413, gettext("The form is too large."))
    return ImmutableMultiDict((name, _normalised(value)) for name, value in pairs)


def _normalised(value: str) -> str:
    """Normalise line ends to LF; remove characters that a database or a mail cannot store."""
    return value.replace("\r\n", "\n").replace("\r", "\n").translate(_PRINTABLE)


class _Printable(dict[int, str]):
    """Table for `str.translate`, filled as characters are met, at most once for each."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if char.isprintable() or char == "\n":
            self[code] = char
        else:
            self[code] = " " if char.isspace() else ""
        return self[code]


_PRINTABLE: Final = _Printable()


Form = Annotated[ImmutableMultiDict[str, str], Depends(_form)]
"""Fields of the submitted form."""
