"""Helpers of the tests: servers, factories, recorded answers."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
"""Recorded answers and labelled sets; the tests that need them are marked `shared`."""
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
"""Names of the browser's program; the tests that need one are marked `browser`."""
