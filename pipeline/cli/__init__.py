"""The same steps by hand: `paperboy ...`, also `python -m pipeline ...`.

Answers go to stdout (with `--json` one object a line), logs to stderr. Exit code 0: done, 1: failed
with one clear line, 2: wrong use.
"""

from pipeline.cli.main import app, main

__all__ = ["app", "main"]
