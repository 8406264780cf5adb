"""Run the tests of a module against its mutants, and print those that no test notices.

    python -m tests.mutants pipeline/slots.py --tests tests/test_slots.py
    python -m tests.mutants --sample 10

Each mutant is written into a copy of the project, first tested on SQLite alone, then, if it
survives, with everything. Exit status 1 if one survives. Not every survivor is a fault: some
mutants behave as the original does.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.making import Mutant, mutants

ROOT = Path(__file__).parents[2]
LONGEST = 900.0  # seconds for the tests of one mutant; one that hangs is noticed
TESTS = {
    "pipeline/matching/*.py": "tests/test_matching_*.py tests/test_sources_text.py",
    "pipeline/smtp/*.py": "tests/test_smtp*.py",
    "pipeline/dispatch/*.py": "tests/test_dispatch.py tests/test_pac*.py tests/test_storage_*.py",
    "pipeline/storage/*.py": "tests/test_storage_*.py tests/test_dispatch.py tests/test_signup*.py",
    "pipeline/editions/*.py": "tests/test_editions*.py tests/test_quiet_notes.py",
    "pipeline/signup/*.py": "tests/test_signup*.py",
    "pipeline/feedback/**/*.py": "tests/test_feedback*.py",
    "pipeline/web/*.py": "tests/test_web.py tests/test_web_*.py",
    "pipeline/message.py": "tests/test_message.py",
    "pipeline/slots.py": "tests/test_slots.py",
    "pipeline/links.py": "tests/test_links.py tests/test_web.py",
    "pipeline/settings.py": "tests/test_settings.py",
}
"""Tests by the modules that they are about; the first pattern that fits a module counts."""


@dataclass(frozen=True, slots=True)
class Result:
    module: Path
    mutant: Mutant
    survived: bool


def main() -> int:
    options = _options()
    modules = [Path(name) for name in options.modules] or _central()
    chosen = [(m, one) for m in modules for one in _sample(m, options.sample, options.seed)]
    print(f"{len(chosen)} mutants of {len(modules)} modules, seed {options.seed}", flush=True)
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
        *("matching/floor", "matching/query", "matching/ranking", "matching/scoring", "slots"),
        *("editions/compiling", "editions/candidates", "signup/joining", "signup/changing"),
        *("dispatch/decisions", "dispatch/pace", "storage/deliveries", "storage/subscribers"),
        *("storage/strikes", "feedback/applying", "smtp/replies", "web/security", "links"),
    )
    return [Path("pipeline", f"{name}.py") for name in names]


def _sample(module: Path, size: int, seed: int) -> list[Mutant]:
    found = mutants((ROOT / module).read_text())
    if not size or size >= len(found):
        return found
    return sorted(random.Random(f"{seed} {module}").sample(found, size), key=lambda one: one.line)


def _run(chosen: list[tuple[Path, Mutant]], options: argparse.Namespace) -> Iterator[Result]:
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="paperboy-mutants-") as folder:
        for number in range(options.workers):
            copies.put(_copy(Path(folder, str(number), "paperboy")))

        def survives(one: tuple[Path, Mutant]) -> Result:
            copy = copies.get()
            try:
                return Result(*one, survived=_survives(copy, *one, options.tests))
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(options.workers) as pool:
            yield from pool.map(survives, chosen)


def _copy(target: Path) -> Path:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def _survives(copy: Path, module: Path, mutant: Mutant, tests: str | None) -> bool:
    patterns = (tests or _tests_of(module)).split()
    files = sorted({str(p.relative_to(ROOT)) for one in patterns for p in ROOT.glob(one)})
    original = (copy / module).read_text()
    (copy / module).write_text(mutant.source)
    try:
        return _passes(copy, files, "-k", "not postgresql") and _passes(copy, files)
    finally:
        (copy / module).write_text(original)


def _tests_of(module: Path) -> str:
    for pattern, tests in TESTS.items():
        if module in {p.relative_to(ROOT) for p in ROOT.glob(pattern)}:
            return tests
    raise SystemExit(f"no tests are named for {module}: give them with --tests")


def _passes(copy: Path, files: list[str], *options: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:randomly", "-p",
               "no:cacheprovider", "-m", "not browser and not shared and not dovecot"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        ran = subprocess.run(
            [*command, *files, *options],
            cwd=copy, env=environment, capture_output=True, timeout=LONGEST,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return False
    return ran.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
