"""Translate the text of pages and mails; it is English until a catalogue is installed.

`make messages` extracts the text of templates and code to `pipeline/locale/paperboy.pot`, and
compiles the catalogues in `pipeline/locale/<language>/LC_MESSAGES/paperboy.po`. Each message is a
whole sentence or label, with named placeholders. The language is that of the process, because
rendered text is cached.
"""

from __future__ import annotations

from gettext import NullTranslations

from jinja2 import Environment

_catalogue = NullTranslations()


def install(catalogue: NullTranslations) -> None:
    """Use a catalogue in all threads of this process; call it before anything is rendered."""
    global _catalogue
    _catalogue = catalogue


def gettext(message: str, **values: object) -> str:
    """Return the translation of `message`, with `%(name)s` replaced if there are values."""
    translated = _catalogue.gettext(message)
    return translated % values if values else translated


def ngettext(singular: str, plural: str, num: int, **values: object) -> str:
    """Return the translation for a number, which replaces `%(num)s` as "1,234"."""
    return _catalogue.ngettext(singular, plural, num) % {"num": f"{num:,}", **values}


def gettext_noop(message: str) -> str:
    """Return `message` unchanged: mark a constant for extraction, to be translated when shown."""
    return message


def language() -> str:
    """Return the language tag (BCP 47) of the text, for `lang` attributes; "en" by default."""
    return _catalogue.info().get("language", "en").replace("_", "-")


def extend(environment: Environment) -> None:
    """Add `{% trans %}`, `_()`, `ngettext()` and `language()` to an environment's templates."""
    environment.add_extension("jinja2.ext.i18n")
    environment.globals["language"] = language
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(  # type: ignore[attr-defined]
        lambda message: _catalogue.gettext(message),
        lambda singular, plural, num: _catalogue.ngettext(singular, plural, num),
        newstyle=True,
    )
