"""Command line: `paperboy ...`, also `python -m pipeline ...`.

Results go to stdout (with `--json` one object per line), logs to stderr. Exit code 0: success, 1:
failure, with one line on stderr, 2: invalid use.
"""

from pipeline.cli.main import app, main

__all__ = ["app", "main"]
