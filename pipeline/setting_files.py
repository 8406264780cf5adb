"""Parse `.env` and read secrets from files: `NAME_FILE=/run/secrets/name` replaces `NAME=...`.

Ambiguous values are rejected, and names that are no setting are found. The parser of `.env` is
python-dotenv's. Values are literal: `${...}` is not expanded. No message repeats a value, which may
be a password.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

from dotenv.parser import Binding, parse_stream
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from pipeline.edit_distance import edit_distance
from pipeline.errors import SettingsError

PREFIX: Final = "PAPERBOY_"
OF_TESTS: Final = "PAPERBOY_REQUIRE_"  # prefix of the tests; see tests/conftest.py

# Names that may validly be in the same file: of Docker Compose and the services it starts, of
# Python, of libraries, of the system.
OTHERS: Final = re.compile(
    r"(POSTGRES|PG|COMPOSE|DOCKER|BUILDKIT|REDIS_(?!URL)|VALKEY|CELERY|C_FORCE_ROOT|FORKED_BY|"
    r"UVICORN|PYTHON|PIP|UV_|VIRTUAL_ENV|HF_|OMP_|REQUESTS_|CURL_|SSL_CERT|HTTP_PROXY|"
    r"ALL_PROXY|SOURCE_DATE|TZ$|LANG|LC_|PATH$|HOME$|USER$|SHELL$|TERM|PWD|PUID$|PGID$|UID$|GID$|"
    r"TRAEFIK|CADDY|NGINX|VIRTUAL_HOST|LETSENCRYPT|ACME|BACKUP_DAYS$)"
)

# Names of the same setting, or of a part of it, in other programs.
ELSEWHERE: Final = {
    "SMTP_HOST": "SMTP_URL",
    "SMTP_SERVER": "SMTP_URL",
    "SMTP_PORT": "SMTP_URL",
    "SMTP_USER": "SMTP_URL",
    "SMTP_USERNAME": "SMTP_URL",
    "SMTP_PASS": "SMTP_URL",
    "SMTP_PASSWORD": "SMTP_URL",
    "EMAIL_HOST": "SMTP_URL",
    "EMAIL_HOST_USER": "SMTP_URL",
    "EMAIL_HOST_PASSWORD": "SMTP_URL",
    "SMTP_FROM": "MAIL_FROM",
    "FROM_EMAIL": "MAIL_FROM",
    "EMAIL_FROM": "MAIL_FROM",
    "DEFAULT_FROM_EMAIL": "MAIL_FROM",
    "BASE_URL": "SITE_URL",
    "PUBLIC_URL": "SITE_URL",
    "POSTAL_ADDRESS": "OPERATOR_ADDRESS",
    "DB_URL": "DATABASE_URL",
    "BROKER_URL": "REDIS_URL",
}

PATHS: Final = frozenset({"smtp_ca_file", "curated_topics"})  # settings that are the path of a file
SQLITE_PATH: Final = re.compile(r"(?P<scheme>sqlite[a-z+]*:///)(?P<path>.+)")

# Settings in which a number sign is more likely part of the value than the start of a comment.
FREE_TEXT: Final = re.compile(
    r"OPERATOR_ADDRESS|OPERATOR_NAME|LIST_NAME|NOTE|MAIL_FROM|(SMTP|DATABASE|REDIS)_URL|"
    r"BOUNCE_MAILBOX|.*_(KEY|KEYS|SECRET|TOKEN|PASSWORD)"
)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A setting that probably does not have the intended effect."""

    text: str
    is_sure: bool  # False: the name may belong to another program


@dataclass(frozen=True, slots=True)
class Entry:
    """One `NAME=value` of the file, as parsed."""

    name: str  # upper case
    value: str | None  # None if the name has no equals sign
    line: int
    raw: str  # text after the equals sign

    @property
    def is_unquoted(self) -> bool:
        return not self.raw.startswith(("'", '"'))


def read(path: Path | None, known: Iterable[str]) -> list[Entry]:
    """Return the entries of `.env`; an empty list if there is no such file.

    Raises SettingsError that names every malformed or ambiguous line.
    """
    if path is None or not os.path.isfile(path):
        return []
    entries, problems, names = [], [], set(known)
    for binding in parse_stream(io.StringIO(_text(path))):
        place = f"{path}, line {_line(binding)}"
        if binding.error:
            problems.append(f"{place}: cannot be read; is a quotation mark missing?")
        elif binding.key is not None:
            raw = binding.original.string.partition("=")[2].strip()
            entry = Entry(binding.key.upper(), binding.value, _line(binding), raw)
            entries.append(entry)
            if entry.name in names:
                problems += [f"{place}: {entry.name} {problem}" for problem in _problems(entry)]
    if problems:
        raise SettingsError("; ".join(problems))
    return entries


def values(entries: Iterable[Entry]) -> dict[str, str | None]:
    """Return the values by lower-case name; the last one wins if a name is repeated."""
    return {entry.name.lower(): entry.value for entry in entries}


def anchored(name: str, value: str, folder: Path) -> str:
    """Return the value; a relative path of a SQLite file or a file setting, below `folder`."""
    if name in PATHS:
        return str(folder / value)
    sqlite = SQLITE_PATH.fullmatch(value.strip()) if name == "database_url" else None
    if sqlite is None or sqlite["path"].startswith(("/", ":memory:", "file:")):
        return value
    return f"{sqlite['scheme']}{folder / sqlite['path']}"


SAFE: Final = re.compile(r"[\w./:@%+,=-]+", re.ASCII)  # needs no quotation marks anywhere
COMMENT: Final = re.compile(
    r"""\s*(?:'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|[^\s#]?.*?)(?P<comment>\s+#.*)?""", re.DOTALL
)


def quoted(name: str, value: str) -> str:
    """Return the value as it is written to `.env`, so that a shell reads it like Paperboy does.

    Raises SettingsError if no quotation marks keep it: it contains a single quotation mark and one
    of `" $ \\` and the backtick, or a line break.
    """
    if not value or SAFE.fullmatch(value):
        return value
    written = f'"{value}"' if "'" in value else f"'{value}'"
    is_ambiguous = "'" in value and re.search(r'["$`\\!]', value)
    (binding,) = [*parse_stream(io.StringIO(f"{name}={written}"))][:1]
    if is_ambiguous or re.search(r"[\r\n]", value) or binding.value != value:
        raise SettingsError(f"{name}: cannot be written to .env; use fewer quotation marks")
    return written


def rewritten(text: str, changes: Mapping[str, str | None]) -> str:
    """Return the text of `.env` with these settings changed; all other lines stay as they are.

    A setting replaces its last line, else the line that comments it out, else it is appended. None
    removes its lines. Raises SettingsError if a value cannot be quoted.
    """
    for name, value in changes.items():
        text = _without(text, name) if value is None else _with(text, name, value)
    return text


def _with(text: str, name: str, value: str) -> str:
    line = f"{name}={quoted(name, value)}"
    parts = [binding.original.string for binding in parse_stream(io.StringIO(text))]
    found = [number for number, part in enumerate(parts) if _name(part) == name]
    if found:
        before, _, old = parts[found[-1]].partition("=")
        kept = COMMENT.fullmatch(old.rstrip("\r\n"))
        end = old[len(old.rstrip("\r\n")) :]
        lead = before[: len(before) - len(before.lstrip())]
        parts[found[-1]] = f"{lead}{line}{(kept and kept['comment']) or ''}{end or chr(10)}"
        return "".join(parts)
    commented = re.compile(rf"^#[ ]?{name}=.*$", re.MULTILINE)
    if commented.search(text):
        return commented.sub(lambda _: line, text, count=1)
    return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}\n"


def _without(text: str, name: str) -> str:
    bindings = parse_stream(io.StringIO(text))
    return "".join(one.original.string for one in bindings if _name(one.original.string) != name)


def _name(part: str) -> str | None:
    """Return the name that a part of `.env` sets, in upper case; None for a comment."""
    (binding,) = [*parse_stream(io.StringIO(part))][:1] or (None,)
    return binding.key.upper() if binding is not None and binding.key else None


def duplicates(entries: Iterable[Entry], known: Iterable[str]) -> list[Suspicion]:
    """Return settings that the file defines more than once with different values."""
    given: dict[str, list[Entry]] = {}
    for entry in entries:
        given.setdefault(entry.name, []).append(entry)
    return [
        Suspicion(
            f"{name} stands in lines {', '.join(str(one.line) for one in found)} of .env; "
            f"line {found[-1].line} counts",
            is_sure=True,
        )
        for name, found in given.items()
        if name in set(known) and len({one.value for one in found}) > 1
    ]


def misnomers(
    entries: Iterable[Entry], environment: Mapping[str, str], known: Iterable[str]
) -> Iterator[Suspicion]:
    """Find names that are no setting: all of `.env`, and near misses in the environment.

    The environment is full of other programs' names. A name there is reported only if it has our
    prefix or is a small typo of a setting.
    """
    names, seen = sorted(known), set()
    for entry in entries:
        name = entry.name
        if name in names or OTHERS.match(name) or name.startswith(OF_TESTS) or name in seen:
            continue
        seen.add(name)
        yield _misnomer(name, f".env, line {entry.line}", _meant(name, names))
    for name in sorted({name.upper() for name in environment} - set(names) - seen):
        if OTHERS.match(name) or name.startswith(OF_TESTS):
            continue
        meant = _meant(name, names) if name.startswith(PREFIX) else _slip(name, names)
        if meant or name.startswith(PREFIX):
            yield _misnomer(name, "the environment", meant)


def _misnomer(name: str, place: str, meant: str | None) -> Suspicion:
    question = f"; did you mean {meant}?" if meant else ""
    is_sure = meant is not None or name.startswith(PREFIX)
    return Suspicion(f"{name} ({place}) is not a setting{question}", is_sure)


def _text(path: Path) -> str:
    """Return the file's text. Raises SettingsError if it is not readable UTF-8 or has NULs."""
    try:
        octets = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = octets.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{path}, line {line}: is not UTF-8; save the file as UTF-8") from None
    if "\0" in text:
        raise SettingsError(f"{path}: has NUL characters; save the file as UTF-8")
    return text


def _line(binding: Binding) -> int:
    """Return the line of the name: the parsed string may begin with empty lines."""
    string = binding.original.string
    before = string[: len(string) - len(string.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", before))


def _problems(entry: Entry) -> Iterator[str]:
    """Yield ambiguities of an entry: a comment behind free text, or `${...}`."""
    if entry.is_unquoted and FREE_TEXT.fullmatch(entry.name) and re.search(r"\s#", entry.raw):
        yield (
            "is cut at a # with a space before it; put the value in single quotes, or the "
            "comment on a line of its own"
        )
    if not entry.raw.startswith("'") and re.search(r"\$\{\w*[^}]*\}", entry.raw):
        yield (
            "holds ${...}, which some programs replace and Paperboy does not; put the value in "
            "single quotes, or write it out"
        )


def _meant(name: str, names: list[str]) -> str | None:
    """Return the setting that `name` probably means; None if there is no similar one."""
    bare = name.removeprefix(PREFIX)
    if bare in names:
        return bare
    if bare in ELSEWHERE:
        return ELSEWHERE[bare]
    if bare.endswith("_FILE") and bare.removesuffix("_FILE") in names:
        return bare.removesuffix("_FILE")
    return next(iter(get_close_matches(bare.strip(":"), names, n=1, cutoff=0.75)), None)


def _slip(name: str, names: list[str]) -> str | None:
    """Return the setting that `name` is a typo of: one edit away, or two if the name is long."""
    if len(name) < 7:
        return None
    allowed = 1 if len(name) < 11 else 2
    near = get_close_matches(name, names, n=3, cutoff=0.75)
    return next((one for one in near if edit_distance(name, one) <= allowed), None)


# --- Secrets from files -------------------------------------------------------------------------


class SecretFiles(PydanticBaseSettingsSource):
    """Settings source: secrets from files named in one place, the environment or `.env`.

    Raises SettingsError if a place gives both NAME and NAME_FILE, or if a file cannot be read or is
    empty. The message names the setting, and never includes the content of a file.
    """

    def __init__(
        self,
        settings: type[BaseSettings],
        place: PydanticBaseSettingsSource,
        folder: Path | None = None,
    ) -> None:
        """`folder` is the directory that relative paths belong to; None: the working directory."""
        super().__init__(settings)
        assert isinstance(place, EnvSettingsSource)  # noqa: S101  (`.env` is one too)
        self._given: Mapping[str, str | None] = place.env_vars
        self._folder = folder or Path()

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = self._given.get(f"{field_name}_file") if is_secret(field) else None
        if not path:
            return None, field_name, False
        if self._given.get(field_name):
            name = field_name.upper()
            raise SettingsError(f"{name} and {name}_FILE are both set: remove one")
        return _read_secret(f"{field_name}_file".upper(), self._folder / path), field_name, False

    def __call__(self) -> dict[str, Any]:
        problems: list[str] = []
        secrets = dict(self._secrets(problems))
        if problems:
            raise SettingsError("; ".join(problems))
        return secrets

    def _secrets(self, problems: list[str]) -> Iterator[tuple[str, str]]:
        for name, field in self.settings_cls.model_fields.items():
            try:
                secret, _, _ = self.get_field_value(field, name)
            except SettingsError as error:
                problems.append(str(error))
                continue
            if secret is not None:
                yield name, secret


def is_secret(field: FieldInfo) -> bool:
    """Return whether a setting may be in a file: if its type or field hides it from the repr."""
    kinds = (field.annotation, *get_args(field.annotation))
    return SecretStr in kinds or field.repr is False


def _read_secret(name: str, path: Path) -> str:
    try:
        secret = path.read_text("utf-8").rstrip("\r\n")
    except OSError as error:
        raise SettingsError(f"{name}: {path} cannot be read: {error.strerror}") from None
    except ValueError:  # invalid UTF-8; the original message would show the byte
        raise SettingsError(f"{name}: {path} cannot be read: it is no text") from None
    if not secret.strip():
        raise SettingsError(f"{name}: {path} is empty")
    return secret
