"""Load the templates: compile MJML to HTML, and split the digest into head, card and tail."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError
from mjml import mjml2html

from pipeline import translations
from pipeline.domain import MAIL_KINDS, DeliveryKind
from pipeline.errors import RenderError
from pipeline.rendering import formatting
from pipeline.rendering.branding import Branding

DIGEST = MAIL_KINDS[DeliveryKind.DIGEST].template
MAILS = frozenset(mail.template for mail in MAIL_KINDS.values()) - {DIGEST}

_INCLUDE = re.compile(r'<mj-include path="([^"]+)" />')
_LOOP = re.compile(
    r"[ \t]*\{% for pick in picks %\}\n?(?P<card>.*)\{% endfor %\}\{# picks #\}\n?", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class TemplateParts:
    """One form (HTML or text) of the digest: whole, and in parts that are rendered separately."""

    whole: Template
    head: Template
    card: Template
    tail: Template


@dataclass(frozen=True, slots=True)
class MailTemplate:
    """HTML and text template of a mail that is not a digest."""

    html: Template
    text: Template


@dataclass(frozen=True, slots=True)
class Templates:
    digest_html: TemplateParts
    digest_text: TemplateParts
    entry_html: Template  # a line of the contents
    entry_text: Template
    mark: Template  # around highlighted words
    mails: Mapping[str, MailTemplate]  # by file name, without suffix
    version: str  # hash of all template files


def load(folder: Path, branding: Branding) -> Templates:
    """Return the compiled templates of `folder`. Raise RenderError if one of them is broken.

    Cached until a file changes: compiling takes a quarter of a second.
    """
    return _load(folder, branding, version(folder))


@lru_cache(maxsize=8)
def _load(folder: Path, branding: Branding, version: str) -> Templates:
    html, text = (
        _environment(folder, branding, escape=True),
        _environment(folder, branding, escape=False),
    )
    try:
        for name in text.list_templates(extensions=["txt"]):
            text.get_template(name)  # otherwise a broken partial would fail in the first mail
        return Templates(
            digest_html=_form(html, f"{DIGEST}.mjml", _html(folder, f"{DIGEST}.mjml")),
            digest_text=_form(text, f"{DIGEST}.txt", _source(folder, f"{DIGEST}.txt")),
            entry_html=_template(
                html, "partials/entry.mjml", _source(folder, "partials/entry.mjml")
            ),
            entry_text=_template(text, "partials/entry.txt", _source(folder, "partials/entry.txt")),
            mark=_template(
                html, "partials/mark.mjml", _source(folder, "partials/mark.mjml").strip()
            ),
            mails={
                name: MailTemplate(
                    html=_template(html, f"{name}.mjml", _html(folder, f"{name}.mjml")),
                    text=_template(text, f"{name}.txt", _source(folder, f"{name}.txt")),
                )
                for name in MAILS
            },
            version=version,
        )
    except TemplateError as error:
        file = getattr(error, "name", None) or folder
        raise RenderError(f"{file}: {error}") from error


def version(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(_files(folder)):
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{path.read_text('utf-8')}\0".encode())
    return digest.hexdigest()[:12]


def _environment(folder: Path, branding: Branding, *, escape: bool) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder),
        # Set by hand, as select_autoescape() knows neither .mjml nor templates made from strings.
        autoescape=escape,  # noqa: S701
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    translations.extend(environment)
    environment.globals["branding"] = branding
    environment.filters["wrap"] = formatting.wrap
    return environment


def _form(environment: Environment, name: str, source: str) -> TemplateParts:
    loop = _LOOP.search(source)
    if loop is None:
        raise RenderError(f"{name}: no {{% for pick in picks %}}...{{% endfor %}}{{# picks #}}")
    return TemplateParts(
        whole=_template(environment, name, source),
        head=_template(environment, name, source[: loop.start()]),
        card=_template(environment, name, loop["card"]),
        tail=_template(environment, name, source[loop.end() :]),
    )


def _template(environment: Environment, name: str, source: str) -> Template:
    """Compile a template. Raise RenderError with the name of its file if it is broken."""
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise RenderError(f"{name}: {error}") from error


def _html(folder: Path, name: str) -> str:
    """Return the template as HTML with its Jinja tags in place: only here is MJML compiled."""
    try:
        html: str = mjml2html(_expanded(folder, name), disable_comments=True, fonts={})
    except ValueError as error:
        raise RenderError(f"{name}: {error}") from error
    unknown = re.search(r"<mj-[\w-]+", html)
    if unknown:  # mrml passes a mistyped tag without an error
        raise RenderError(f"{name}: {unknown[0]}> is not known to MJML, or stands where it cannot")
    # Remove indentation: it helps the designer, but is a tenth of the mail. End the last line,
    # as a body must not end in a soft line break (RFC 2045, section 6.7, rule 5).
    return re.sub(r"\n\s*", "\n", html).rstrip() + "\n"


def _expanded(folder: Path, name: str) -> str:
    """Return the source with all includes expanded; mrml's own includes lose column widths."""
    return _INCLUDE.sub(lambda include: _expanded(folder, include[1]), _source(folder, name))


def _source(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text("utf-8")
    except OSError as error:
        raise RenderError(f"{name}: {error.strerror}") from error


def _files(folder: Path) -> Iterator[Path]:
    for suffix in ("mjml", "txt"):
        yield from folder.rglob(f"*.{suffix}")
