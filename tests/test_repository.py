"""Files around the code: the settings, the documents and the make targets are consistent."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr

from pipeline.cli.main import COMMANDS
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
ENV_EXAMPLE = (ROOT / ".env.example").read_text()


def _tracked() -> list[Path]:
    """Return the files of the repository, including those not committed yet."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("this is not a git checkout")
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file()]


# --- Settings -----------------------------------------------------------------------------------


def _examples() -> dict[str, str]:
    """Return the names in .env.example and the defaults it states."""
    lines = "\n".join(re.findall(r"^#([A-Z_]+=.*)$", ENV_EXAMPLE, re.MULTILINE))
    return {name: value or "" for name, value in dotenv_values(stream=StringIO(lines)).items()}


def test_env_example_has_exactly_the_settings():
    compose_only = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE))

    assert set(_examples()) == {name.upper() for name in Settings.model_fields} | compose_only


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_env_example_states_the_real_default(name):
    default = Settings.model_fields[name].default

    assert _examples()[name.upper()] == _written(default)


def _written(value: object) -> str:
    match value:
        case None:
            return ""
        case SecretStr():
            return value.get_secret_value()
        case tuple():
            return " ".join(value)
        case bool():
            return str(value).lower()
    return str(value)


def test_env_example_explains_each_setting():
    """Each block of names must follow a comment in words."""
    for block in re.split(r"\n\n+", ENV_EXAMPLE):
        lines = block.splitlines()
        names = [line for line in lines if re.match(r"#[A-Z_]+=", line)]
        words = [line for line in lines if line.startswith("# ") and "---" not in line]
        assert words or not names, block


def test_only_settings_reads_the_environment():
    readers = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pipeline").rglob("*.py")
        if re.search(r"os\.(environ|getenv)|\benviron\b\[", path.read_text())
    ]

    assert readers == ["pipeline/settings.py"]


# --- The repository -----------------------------------------------------------------------------


def test_documented_commands_exist():
    """Every `make X` and `paperboy X` in the documents must exist."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = set(COMMANDS)

    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        text = document.read_text()
        assert set(re.findall(r"`(?:.*[;&] )?make ([a-z-]+)", text)) <= targets
        assert set(re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE)) <= targets
        assert set(re.findall(r"`paperboy ([a-z]+)", text)) <= commands


def test_linked_documents_exist():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_decisions_named_in_code_exist_and_all_are_indexed():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()

    for path in (ROOT / "pipeline").rglob("*.py"):
        for name in re.findall(r"docs/decisions/([\w-]+\.md)", path.read_text()):
            assert (ROOT / "docs" / "decisions" / name).exists(), f"{path.name} names {name}"
    for path in (ROOT / "docs" / "decisions").glob("[!R]*.md"):
        assert f"({path.name})" in index


@pytest.mark.full
def test_every_module_docstring_starts_with_a_sentence():
    for path in (ROOT / "pipeline").rglob("*.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert docstring.split("\n")[0].endswith("."), path


def test_no_test_module_imports_another():
    """Helpers of several modules are in tests/support."""
    imports = {
        f"{path.name}: {line.strip()}"
        for path in (ROOT / "tests").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.match(r"\s*(from|import) tests\.(test_|conftest)", line)
    }

    assert not imports


def _writers(row: str) -> set[str]:
    """Return the modules of `storage` that insert, update or delete rows of this class."""
    writes = re.compile(rf"\b(?:insert|update|delete|upsert)\((?:conn, )?{row}\b")
    return {
        path.relative_to(ROOT / "pipeline").as_posix()
        for path in (ROOT / "pipeline").rglob("*.py")
        if writes.search(path.read_text())
    }


def test_only_suppressions_writes_suppressions():
    """Its `suppress` cancels the queued deliveries of the address in the same transaction."""
    assert _writers("SuppressionRow") == {"storage/suppressions.py"}


def test_deliveries_are_written_in_one_module():
    """Except for the purge, and for rows copied from a replaced database."""
    assert _writers("DeliveryRow") == {
        "storage/deliveries.py",
        "storage/restored_copies.py",
        "storage/retention.py",
    }


def test_no_file_contains_local_paths_or_package_indexes():
    """Other checkouts have other paths and may install from other registries."""
    own_name = Path(__file__).name
    forbidden = re.compile(
        r"(?<![\w.])/(?:home|root|Users|work|opt)/\w+"
        r"|--(?:extra-)?index-url|--find-links|pypi\.org|pythonhosted"
    )
    for path in _tracked():
        if path.name == own_name or path.suffix in {".png", ".ico", ".woff2"}:
            continue
        found = forbidden.search(path.read_text("utf-8", "replace"))
        assert found is None, f"{path.relative_to(ROOT)}: {found.group() if found else ''}"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_package_is_locked_by_hash(name):
    text = (ROOT / name).read_text().replace("\\\n", "")
    pins = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]

    assert pins
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)


def test_ci_script_stops_at_the_first_error():
    script = (ROOT / ".ci" / "run").read_text()

    assert "set -euo pipefail" in script
    assert shlex.split(script.splitlines()[0].removeprefix("#!")) == ["/usr/bin/env", "bash"]
    assert subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=False).returncode == 0
