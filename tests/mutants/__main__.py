"""Run the tests of a module against its mutants, and print the mutants that survive.

    python -m tests.mutants pipeline/slots.py --tests tests/test_slots.py
    python -m tests.mutants --sample 10

Each mutant is written to a copy of the project and tested on SQLite first; if it survives, the
PostgreSQL tests run, too. The exit status is 1 if a mutant survives. Not every survivor is a
missing test: some mutants are equivalent to the original.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import pytest

from tests.mutants.making import Mutant, mutants

ROOT = Path(__file__).parents[2]
OUTPUT: Final = "output.txt"
LONGEST: Final = 120  # seconds of CPU for the tests of a mutant; pytest-timeout ends idle ones
TESTS: Final = {
    "pipeline/matching/*.py": "tests/test_matching_*.py tests/test_sources_text.py",
    "pipeline/smtp/*.py": "tests/test_smtp*.py",
    "pipeline/dispatch/*.py": "tests/test_dispatch*.py tests/test_storage_*.py",
    "pipeline/storage/*.py": "tests/test_storage_*.py tests/test_dispatch.py tests/test_signup*.py",
    "pipeline/editions/*.py": "tests/test_editions*.py",
    "pipeline/signup/*.py": "tests/test_signup*.py",
    "pipeline/feedback/**/*.py": "tests/test_feedback*.py",
    "pipeline/web/**/*.py": "tests/test_web_*.py",
    "pipeline/message.py": "tests/test_message.py",
    "pipeline/slots.py": "tests/test_slots.py",
    "pipeline/links.py": "tests/test_links.py tests/test_web_mail_links.py",
    "pipeline/settings.py": "tests/test_settings.py",
}
"""Test files by module pattern; the first pattern that matches a module counts."""
LIBRARIES: Final = (
    *("alembic.config", "celery", "hypothesis", "mjml", "numpy", "pydantic_settings"),
    *("redis", "requests", "sqlalchemy.orm", "starlette.testclient", "structlog", "typer"),
)
"""Libraries that most tests import; loading them once saves half the time of a mutant."""


@dataclass(frozen=True, slots=True)
class Result:
    module: Path
    mutant: Mutant
    survived: bool
    output: str  # of its tests


def main() -> int:
    options = _options()
    modules = [Path(name) for name in options.modules] or _central()
    chosen = [(m, one) for m in modules for one in _sample(m, options.sample, options.seed)]
    print(f"{len(chosen)} mutants of {len(modules)} modules, seed {options.seed}", flush=True)
    for result in _run([(m, Mutant(0, "unchanged", _source(m))) for m in modules], options):
        if not result.survived:
            raise SystemExit(
                f"{result.output}\nThe tests of {result.module} fail without a change."
            )
    survivors = 0
    for number, result in enumerate(_run(chosen, options), 1):
        survivors += result.survived
        word = "SURVIVED" if result.survived else "killed"
        where = f"{result.module}:{result.mutant.line}"
        print(f"{number}/{len(chosen)} {word} {where}  {result.mutant.what}", flush=True)
    killed = len(chosen) - survivors
    print(f"{killed} of {len(chosen)} killed ({100 * killed / max(1, len(chosen)):.1f} %)")
    return int(survivors > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.mutants")
    parser.add_argument("modules", nargs="*", help="files in pipeline/; the central ones if none")
    parser.add_argument("--sample", type=int, default=0, help="mutants of each module; 0: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", help="test files instead of those in the table, with spaces")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _central() -> list[Path]:
    """Return the modules that decide: matching, schedules, sending and the meaning of replies."""
    names = (
        *("matching/threshold", "matching/query", "matching/ranking", "matching/scoring", "slots"),
        *("editions/compiler", "editions/candidates", "signup/subscribe", "signup/preferences"),
        *("dispatch/retry_policy", "dispatch/throttle", "storage/deliveries"),
        *("storage/subscribers", "storage/bounce_scores", "feedback/process", "smtp/replies"),
        *("web/middleware", "links"),
    )
    return [Path("pipeline", f"{name}.py") for name in names]


def _source(module: Path) -> str:
    return (ROOT / module).read_text()


def _sample(module: Path, size: int, seed: int) -> list[Mutant]:
    found = mutants(_source(module))
    if not size or size >= len(found):
        return found
    return sorted(random.Random(f"{seed} {module}").sample(found, size), key=lambda one: one.line)


def _run(chosen: list[tuple[Path, Mutant]], options: argparse.Namespace) -> Iterator[Result]:
    """Test each mutant in a process forked from this one, which has loaded the libraries already.

    Yield the results in the order in which the processes end.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
    waiting, running = chosen[::-1], dict[int, tuple[Path, Path, Mutant]]()
    with tempfile.TemporaryDirectory(prefix="paperboy-mutants-") as folder:
        free = [_copy(Path(folder, str(n), "paperboy")) for n in range(options.workers)]
        while waiting or running:
            while waiting and free:
                copy, (module, mutant) = free.pop(), waiting.pop()
                running[_fork(copy, module, mutant, options.tests)] = (copy, module, mutant)
            ended, status = os.wait()
            copy, module, mutant = running.pop(ended)
            _write(copy / module, _source(module))
            free.append(copy)
            output = (copy.parent / OUTPUT).read_text(errors="replace")[-3_000:]
            yield Result(module, mutant, survived=status == 0, output=output)


def _copy(target: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    for command in (["git", "init", "--quiet"], ["git", "add", "--all"]):  # some tests list files
        subprocess.run(command, cwd=target, check=True)
    compileall.compile_dir(target / "pipeline", quiet=1)
    return target


def _write(module: Path, source: str) -> None:
    """Replace a module and delete its .pyc, which would pass as current within the same second."""
    module.write_text(source)
    Path(importlib.util.cache_from_source(str(module))).unlink(missing_ok=True)


def _fork(copy: Path, module: Path, mutant: Mutant, tests: str | None) -> int:
    files = _files(module, tests)
    sys.stdout.flush()
    if child := os.fork():
        return child
    os.setsid()
    signal.signal(signal.SIGXCPU, lambda *_: _end(1))
    resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, resource.RLIM_INFINITY))
    survived = False
    try:
        _write(copy / module, mutant.source)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = sys.path[0] = str(copy)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        output = os.open(copy.parent / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(output, standard)
        survived = _passes(files, "not postgresql") and _passes(files, "postgresql")
    finally:
        _end(int(not survived))


def _end(status: int) -> NoReturn:
    """End this process and its process group: the servers and commands that its tests started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    os._exit(status)


def _files(module: Path, tests: str | None) -> list[str]:
    """Return the test files of a module, files with the module's name first."""
    patterns = (tests or _tests_of(module)).split()
    files = {str(p.relative_to(ROOT)) for one in patterns for p in ROOT.glob(one)}
    return sorted(files, key=lambda name: (module.stem not in name, name))


def _tests_of(module: Path) -> str:
    for pattern, tests in TESTS.items():
        if module in {p.relative_to(ROOT) for p in ROOT.glob(pattern)}:
            return tests
    raise SystemExit(f"no tests are named for {module}: give them with --tests")


def _passes(files: list[str], chosen: str) -> bool:
    for name in [name for name in sys.modules if name.split(".")[0] in ("pipeline", "tests")]:
        del sys.modules[name]
    status = pytest.main(
        ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist",
         "-W", "ignore::pytest.PytestAssertRewriteWarning",  # for plugins that are loaded already
         "-m", "not browser and not shared and not dovecot", "-k", chosen, *files]
    )  # fmt: skip
    return status in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


if __name__ == "__main__":
    sys.exit(main())
