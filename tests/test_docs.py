"""The reference pages are complete: settings, commands, tables, metrics and routes.

If a check fails, run `make reference`; metrics.md, http.md and monitoring.md are edited by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.domain import SourceState
from pipeline.mailbox import Mailbox
from pipeline.settings import Settings
from pipeline.storage.ingest_state import SourceRecord
from pipeline.storage.schema import Table
from pipeline.storage.stats import Stats, Week, problems
from pipeline.web import create_app, ops
from tests.reference import DOCS, PAGES, ROOT, commands

on_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)


def _page(name: str) -> str:
    return (DOCS / name).read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name):
    assert _page(name) == PAGES[name](), f"docs/{name} is out of date: run `make reference`"


def test_every_setting_is_documented():
    documented = set(re.findall(r"^- \*\*`([A-Z_]+)`\*\*", _page("settings.md"), re.MULTILINE))

    assert {name.upper() for name in Settings.model_fields} <= documented


def test_every_command_and_option_is_documented():
    parts = re.split(r"^## (.+)\n", _page("commands.md"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    assert list(sections) == [name for name, _ in commands()]
    for name, command in commands():
        for param in command.params:
            for option in param.opts if param.param_type_name == "option" else ():
                assert f"| `{option}" in sections[name], f"{name} {option}"


def test_every_table_and_column_is_documented():
    parts = re.split(r"^## (.+)\n", _page("schema.md"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))

    assert set(sections) == set(Table.metadata.tables)
    for table in Table.metadata.tables.values():
        for column in table.columns:
            assert f"| `{column.name}` |" in sections[table.name], f"{table.name}.{column.name}"


@on_sqlite
def test_every_metric_is_documented(engine: Engine):
    documented = re.findall(r"^\| `(paperboy_\w+)[`{]", _page("metrics.md"), re.MULTILINE)
    now = datetime.now(UTC)

    registry = ops.collect(Services(settings.load(None), engine), now, now)

    named = [m.name + "_total" * (m.type == "counter") for m in registry.collect()]
    assert sorted(documented) == sorted(named)


@on_sqlite
def test_every_route_is_documented(engine: Engine, tmp_path):
    app = create_app(Services(settings.load(None), engine), Mailbox(tmp_path))
    rows = re.findall(r"^\| ([A-Z, ]+) \| `(/.*?)` \|", _page("http.md"), re.MULTILINE)
    documented = {(method, path) for methods, path in rows for method in methods.split(", ")}

    assert documented == set(_routes(app.routes))


def _routes(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Yield method and path of each route; HEAD is not listed, because GET answers it, too."""
    for route in routes:
        path = re.sub(r":\w+}", "}", route.path)
        yield from ((method, path) for method in route.methods - {"HEAD"})


def test_every_reason_of_readyz_is_documented():
    """Each reason is quoted in docs/monitoring.md up to its duration."""
    now = datetime(2030, 1, 2, tzinfo=UTC)
    since = now - timedelta(days=9)
    breaker = cast(Any, SimpleNamespace(since=since))

    failed = SourceRecord("arxiv", SourceState.FAILED, since, now)
    made = Stats(
        0, since, since, since, since, (failed,), breaker=breaker, paused_since=since,
        week=Week(sent=2_000, complained=90, bounced=300, sent_in_two_days=1, expired_yesterday=9),
    )  # fmt: skip

    reasons = problems(made, now, since)
    reasons += problems(Stats(0, None, None, None, None, ()), now, since)

    assert len(reasons) == 11
    for reason in reasons:
        quoted = re.sub(r"[\d.]+%?|arxiv", "...", reason.partition(", for")[0])
        assert f"| {quoted} |" in _page("monitoring.md"), reason


def _slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub writes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_every_anchor_that_is_linked_exists():
    for document in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for page, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text()):
            target = document.parent / page if page else document
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in map(_slug, headings), f"{document.name} links to {page}#{anchor}"


def test_the_pages_name_commands_that_exist():
    """Of a group, such as `editions`, the command after it is checked, too."""
    names = {name for name, _ in commands()}
    groups = {name.split()[0] for name in names if " " in name}
    example = re.compile(
        r"(?:^ {4,}(?:\.venv/bin/)?|`)paperboy ([a-z]+)((?: [a-z]+)?)", re.MULTILINE
    )

    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for first, second in example.findall(page.read_text()):
            is_whole = first in names or (first in groups and not second)
            assert is_whole or f"{first}{second}" in names, f"{page.name}: {first}{second}"


def test_the_index_links_every_page():
    index = _page("README.md")

    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
