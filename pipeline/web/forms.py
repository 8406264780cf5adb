"""Parse submitted forms, with limits on their size and number of fields."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import HTTPException
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request

from pipeline.translations import gettext

Fields = ImmutableMultiDict[str, str]

LARGEST_FORM = 128 * 1024
MOST_FIELDS = 500
ENCODING = "application/x-www-form-urlencoded"


async def fields(request: Request) -> Fields:
    """Return the normalised fields of a posted form.

    Raise HTTPException 415 for any other encoding (multipart would need checks of its own), 413 if
    the body is over `LARGEST_FORM`, and 400 if it cannot be parsed.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != ENCODING:
        raise HTTPException(415, gettext("This page accepts only its own form."))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise HTTPException(413, gettext("The form is too large."))
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise HTTPException(400, gettext("The form cannot be read.")) from error
    return ImmutableMultiDict((name, _clean(value)) for name, value in pairs)


def _clean(value: str) -> str:
    """Normalise line ends to LF; remove characters that a database or a mail cannot store."""
    lines = value.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(map(_visible, lines))


def _visible(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    return " " if char.isspace() else ""
