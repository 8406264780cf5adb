"""Generate the pages docs/settings.md, docs/commands.md and docs/schema.md: `make reference`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

from pydantic.fields import FieldInfo
from sqlalchemy import Column

from pipeline.cli.main import COMMANDS
from pipeline.setting_files import is_secret
from pipeline.settings import Settings
from pipeline.storage.schema import Table

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SECTION = re.compile(r"^# --- (.+?) -+$", re.MULTILINE)
NAME = re.compile(r"^#([A-Z_]+)=(.*)$", re.MULTILINE)

SETTINGS = """\
# Settings

Set these in the environment or in `.env`, in upper case. The environment has priority. A trial
needs none of them. Mail to real people needs those marked (needed). A secret may be read from a
file: `NAME_FILE` then names the file.

`.env` is that of the working directory; if it has none, that of the folder Paperboy is installed
from, and relative paths of files belong to that folder. So every command uses the same SQLite file.
`paperboy config` prints every setting in force and where it comes from; `paperboy doctor` checks
them.

This page is generated: run `make reference` after a change of `pipeline/settings.py` or
`.env.example`.
"""
COMMANDS_INTRO = """\
# Commands

`paperboy COMMAND`, also as `python -m pipeline COMMAND`. `paperboy COMMAND --help` prints the same.
Logs go to stderr. Exit codes: 0 success, 1 failure with one line on stderr, 2 wrong usage.
`paperboy --version` prints the version.

This page is generated: run `make reference` after a change of a command.
"""
SCHEMA = """\
# Tables

The tables are the same on SQLite and PostgreSQL. Times are in UTC. A status or kind is stored as
text; `pipeline/domain.py` defines the values. `alembic_version` is not listed: it holds the number
of the last migration.

This page is generated: run `make reference` after a change of `pipeline/storage/schema.py`.
"""


# --- Settings -----------------------------------------------------------------------------------


def settings_page() -> str:
    """Return the settings with the sections, comments and defaults of .env.example."""
    _, *parts = SECTION.split((ROOT / ".env.example").read_text())
    sections = zip(parts[::2], parts[1::2], strict=True)
    return _page(SETTINGS, (line for title, text in sections for line in _section(title, text)))


def _page(intro: str, lines: Iterable[str]) -> str:
    text = "\n".join([intro.rstrip(), *lines]).rstrip() + "\n"
    return re.sub(r"\n{3,}", "\n\n", text)


def _section(title: str, text: str) -> Iterator[str]:
    yield f"\n## {title}\n"
    for block in filter(None, map(str.strip, text.split("\n\n"))):
        names = NAME.findall(block)
        comment = [line.removeprefix("# ") for line in block.splitlines() if line[:2] == "# "]
        for name, default in names:
            yield f"- **`{name}`**: {_limits(name, default)}"
        text = "\n".join(comment).replace("<", "\\<")  # else Markdown takes <name@...> for a link
        yield f"\n{text}\n" if names else f"{text}\n"


def _limits(name: str, default: str) -> str:
    field = Settings.model_fields.get(name.lower())
    facts = [f"default `{default}`" if default else "no default"]
    if field is not None:
        facts += _bounds(field)
        facts += ["secret"] if is_secret(field) else []
    return "; ".join(facts)


def _bounds(field: FieldInfo) -> list[str]:
    """Return the bounds of a number as text; empty for other settings."""
    rules = field.metadata
    least = [rule.ge for rule in rules if hasattr(rule, "ge")]
    most = [rule.le for rule in rules if hasattr(rule, "le")]
    return [f"{least[0]:,} to {most[0]:,}"] if least and most else []


# --- Commands -----------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command with its full name, such as `editions list`, in the order of --help."""
    for name, entry in COMMANDS.items():
        yield from _walk(name, entry.load(name))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield name, command
    for child, inner in (children or {}).items():
        yield from _walk(f"{name} {child}", inner)


def commands_page() -> str:
    """Return each command with its help, arguments and options."""
    return _page(
        COMMANDS_INTRO, (line for name, command in commands() for line in _command(name, command))
    )


def _command(name: str, command: Any) -> Iterator[str]:
    params = command.params
    arguments = [_argument(param) for param in params if param.param_type_name == "argument"]
    yield f"\n## {name}\n"
    yield f"    paperboy {' '.join([name, *arguments])}\n"
    yield inspect.cleandoc(command.help or "")
    if params:
        yield "\n| | |\n|---|---|"
    for param in params:
        yield f"| {_spelling(param)} | {_meaning(param)} |"


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.required or name.startswith("[") else f"[{name}]"


def _spelling(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{_argument(param)}`".replace("|", "\\|")
    value = "" if param.is_flag else f" {param.metavar or 'VALUE'}"
    return ", ".join(f"`{name}{value}`" for name in param.opts).replace("|", "\\|")


def _meaning(param: Any) -> str:
    facts = [getattr(param, "help", None) or "", *_values(param)]
    if getattr(param, "is_flag", False) or param.default in (None, "", ()):
        facts += ["Required."] if param.required and param.param_type_name == "option" else []
    else:
        facts.append(f"Default: `{getattr(param.default, 'value', param.default)}`.")
    return " ".join(filter(None, facts)).replace("|", "\\|")


def _values(param: Any) -> list[str]:
    """Return the values that a parameter may have, as text, if they are limited."""
    given = param.type_descriptor.annotation
    for kind in (given, *get_args(given)):
        if isinstance(kind, type) and issubclass(kind, Enum):
            return [", ".join(f"`{member.value}`" for member in kind) + "."]
    bounds = (getattr(param, "min", None), getattr(param, "max", None))
    return [f"{bounds[0]:,} to {bounds[1]:,}."] if None not in bounds else []


# --- Tables -------------------------------------------------------------------------------------


def schema_page() -> str:
    """Return each table with its docstring, and each column with the comment on its line."""
    return _page(SCHEMA, (line for mapper in _mappers() for line in _table(mapper)))


def _mappers() -> list[Any]:
    return sorted(Table.registry.mappers, key=lambda mapper: mapper.local_table.name)


def _table(mapper: Any) -> Iterator[str]:
    comments = dict(
        re.findall(r"^    (\w+): Mapped\[.*  # (.+)$", inspect.getsource(mapper.class_), re.M)
    )
    yield f"\n## {mapper.local_table.name}\n"
    yield inspect.cleandoc(mapper.class_.__doc__ or "")
    yield "\n| column | type | |\n|---|---|---|"
    for column in mapper.local_table.columns:
        note = "; ".join(filter(None, (_role(column), comments.get(column.name, ""))))
        yield f"| `{column.name}` | {_type(column)} | {note} |"


def _type(column: Column[Any]) -> str:
    kind = str(column.type).split("(")[0].lower().replace("varchar", "text")
    return f"{kind}, optional" if column.nullable else kind


def _role(column: Column[Any]) -> str:
    roles = ["primary key"] if column.primary_key else []
    roles += ["unique"] if column.unique else []
    roles += [f"references `{key.target_fullname}`" for key in column.foreign_keys]
    return ", ".join(roles)


PAGES = {"settings.md": settings_page, "commands.md": commands_page, "schema.md": schema_page}

if __name__ == "__main__":
    for page, generate in PAGES.items():
        (DOCS / page).write_text(generate())
