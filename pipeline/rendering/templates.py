"""Reads the templates once: MJML becomes HTML, and a digest falls into head, card and tail."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError
from mjml import mjml2html

from pipeline.errors import RenderError
from pipeline.rendering import words
from pipeline.rendering.house import House

LETTERS = ("confirmation", "already_in", "link", "data_link", "new_address", "quiet_note")

_INCLUDE = re.compile(r'<mj-include path="([^"]+)" />')
_LOOP = re.compile(
    r"[ \t]*\{% for pick in picks %\}\n?(?P<card>.*)\{% endfor %\}\{# picks #\}\n?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Form:
    """One form (HTML or text) of the digest: whole, and in the parts that are joined later."""

    whole: Template
    head: Template
    card: Template
    tail: Template


@dataclass(frozen=True, slots=True)
class Letter:
    """Both forms of a mail that is no digest."""

    html: Template
    text: Template


@dataclass(frozen=True, slots=True)
class Templates:
    digest_html: Form
    digest_text: Form
    mark: Template  # around words that matched
    letters: Mapping[str, Letter]  # by the name of their files
    version: str  # changes with any letter of any template


def load(folder: Path, house: House) -> Templates:
    """Compile every template of `folder`; raises RenderError that names a broken one.

    Cached until a file changes: compiling takes a quarter of a second.
    """
    return _load(folder, house, version(folder))


@lru_cache(maxsize=8)
def _load(folder: Path, house: House, version: str) -> Templates:
    html, text = _environment(folder, house, escape=True), _environment(folder, house, escape=False)
    try:
        for name in text.list_templates(extensions=["txt"]):
            text.get_template(name)  # else a broken partial would only be met in the first mail
        return Templates(
            digest_html=_form(html, _html(folder, "digest.mjml")),
            digest_text=_form(text, _source(folder, "digest.txt")),
            mark=html.from_string(_source(folder, "partials/mark.mjml").strip()),
            letters={
                name: Letter(
                    html=html.from_string(_html(folder, f"{name}.mjml")),
                    text=text.from_string(_source(folder, f"{name}.txt")),
                )
                for name in LETTERS
            },
            version=version,
        )
    except TemplateError as error:
        raise RenderError(f"a template in {folder} is broken: {error}") from error


def version(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{path.read_text('utf-8')}\0".encode())
    return digest.hexdigest()[:12]


def _environment(folder: Path, house: House, *, escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder),
        # By hand, since select_autoescape() knows neither .mjml nor templates made from strings.
        autoescape=escape,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals["house"] = house
    environment.filters["wrap"] = words.wrap
    environment.filters["listed"] = words.listed
    return environment


def _form(environment: Environment, source: str) -> Form:
    loop = _LOOP.search(source)
    if loop is None:
        raise RenderError("digest: no {% for pick in picks %}...{% endfor %}{# picks #}")
    return Form(
        whole=environment.from_string(source),
        head=environment.from_string(source[: loop.start()]),
        card=environment.from_string(loop["card"]),
        tail=environment.from_string(source[loop.end() :]),
    )


def _html(folder: Path, name: str) -> str:
    """The template as HTML with its Jinja marks still in place: MJML is compiled only here."""
    try:
        html: str = mjml2html(_expanded(folder, name), disable_comments=True, fonts={})
    except ValueError as error:
        raise RenderError(f"{name}: {error}") from error
    unknown = re.search(r"<mj-[\w-]+", html)
    if unknown:  # mrml lets a mistyped tag through without a word
        raise RenderError(f"{name}: {unknown[0]}> is not known to MJML, or stands where it cannot")
    # Indentation is for the designer; on the wire it is a tenth of the mail. The last line ends,
    # since a body must not end in a soft break (RFC 2045, section 6.7, rule 5).
    return re.sub(r"\n\s*", "\n", html).rstrip() + "\n"


def _expanded(folder: Path, name: str) -> str:
    """The source with every include in its place; mrml's own loses widths of what it includes."""
    return _INCLUDE.sub(lambda include: _expanded(folder, include[1]), _source(folder, name))


def _source(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text("utf-8")
    except OSError as error:
        raise RenderError(f"{name}: {error.strerror}") from error


def _files(folder: Path) -> Iterator[Path]:
    for suffix in ("mjml", "txt"):
        yield from folder.rglob(f"*.{suffix}")
