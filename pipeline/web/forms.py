"""Read what a form sends: names and values, within bounds."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import HTTPException
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import Request

Fields = ImmutableMultiDict[str, str]

LARGEST_FORM = 128 * 1024
MOST_FIELDS = 500
ENCODING = "application/x-www-form-urlencoded"


async def fields(request: Request) -> Fields:
    """The fields of a posted form.

    Answers 415 to anything but a plain form, so that there is no second way in with checks of its
    own, 413 to one that is too large and 400 to one that makes no sense.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != ENCODING:
        raise HTTPException(415, "This address takes what its own form sends, and nothing else.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM:
            raise HTTPException(413, "That is more than a form can hold.")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError as error:
        raise HTTPException(400, "That is not what a form looks like.") from error
    return ImmutableMultiDict((name, _clean(value)) for name, value in pairs)


def _clean(value: str) -> str:
    """One kind of line end, and nothing that a database or a mail cannot hold."""
    lines = value.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(map(_visible, lines))


def _visible(char: str) -> str:
    if char.isprintable() or char == "\n":
        return char
    return " " if char.isspace() else ""
