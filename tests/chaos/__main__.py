"""Run the long chaos test: python -m tests.chaos [--kills 300] [--seed N] [--backend sqlite]..."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import asdict

from tests.chaos.compiling import compile_in_chaos
from tests.chaos.killing import kill
from tests.chaos.stage import CONNECTIONS, open_stage
from tests.chaos.visiting import visit

ROWS = (
    "deliveries", "accepted", "resent", "copies", "uncertain_but_accepted", "most_uncertain",
)  # fmt: skip


def main() -> int:
    given = _arguments()
    print(f"seed {given.seed}", file=sys.stderr, flush=True)
    held = True
    for backend in given.backend or ["sqlite", "postgresql"]:
        started = time.monotonic()
        kills, happened, found = kill(backend, kills=given.kills, seed=given.seed)
        held = held and found.holds(CONNECTIONS)
        _show(backend, time.monotonic() - started, kills, asdict(found))
        report = {"backend": backend, "seed": given.seed, "holds": found.holds(CONNECTIONS)}
        print(json.dumps({**report, "kills": kills, "happened": happened, **asdict(found)}))
        held = _compile(backend, given.kills // 3, given.seed) and held
        if backend == "sqlite":  # the only backend that is a file
            held = _visit(given.kills) and held
    return 0 if held else 1


def _compile(backend: str, kills: int, seed: int) -> bool:
    """Kill ingest and publish on a separate database; return whether the invariants held."""
    started = time.monotonic()
    with open_stage(backend) as stage:
        story = compile_in_chaos(stage, kills=kills, seed=seed)
    report = {"backend": backend, "seed": seed, "holds": story.holds, **asdict(story)}
    print(f"\n{backend}, ingest and publish: {time.monotonic() - started:.0f} s", file=sys.stderr)
    for name, value in report.items():
        print(f"  {name}: {value}", file=sys.stderr, flush=True)
    print(json.dumps({"phase": "compiling", **report}), flush=True)
    return story.holds


def _visit(signups: int) -> bool:
    """Open and close the SQLite file from other processes while site, worker and senders run.

    Return whether the invariants held.
    """
    started = time.monotonic()
    visited = visit("sqlite", signups=signups)
    holds = visited.holds(CONNECTIONS)
    report = {"phase": "visiting", "backend": "sqlite", "holds": holds, **asdict(visited)}
    print(f"\nsqlite, other processes: {time.monotonic() - started:.0f} s", file=sys.stderr)
    for name in ("acknowledged", "visits", "copies", "lost", "broken"):
        print(f"  {name}: {report[name]}", file=sys.stderr, flush=True)
    print(json.dumps(report), flush=True)
    return holds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--backend", action="append", choices=["sqlite", "postgresql"])
    return parser.parse_args()


def _show(backend: str, seconds: float, kills: dict[str, int], found: dict[str, object]) -> None:
    total = sum(kills.values())
    print(f"\n{backend}: {total} kills in {seconds:.0f} s", file=sys.stderr)
    for name, count in sorted(kills.items(), key=lambda pair: -pair[1]):
        print(f"  {count:6} killed {name}", file=sys.stderr)
    for name in ROWS:
        print(f"  {found[name]:6} {name.replace('_', ' ')}", file=sys.stderr)
    print(f"  {found['statuses']}", file=sys.stderr)
    for wrong in ("lost", "twice"):
        print(f"  {len(found[wrong]):6} {wrong} {found[wrong] or ''}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
