"""Check an installation and report problems with advice: `paperboy doctor`.

There is one file for each area. A check is a generator of findings about an installation; its
function name is the name of the check. `finding` defines both, `resolver` and `spf` query the DNS,
and `provider_rules` summarises.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import structlog

from pipeline.doctor import database, dns, mail, provider_rules, services, settings, site
from pipeline.doctor.finding import Check, Finding, Installation, bad, unknown
from pipeline.errors import PaperboyError, UnansweredError
from pipeline.settings import Settings

__all__ = ["Finding", "Installation", "examine", "run_check"]

AREAS = (settings, database, services, site, dns, mail)

log = structlog.get_logger(__name__)


def examine(loaded: Settings, now: datetime) -> Iterator[Finding]:
    """Yield each finding as it is made. Changes nothing and sends no mail."""
    installation, findings = Installation(loaded, now), []
    try:
        for check in (check for area in AREAS for check in area.CHECKS):
            for finding in run_check(check, installation):
                findings.append(finding)
                yield finding
        yield from run_check(
            lambda installation: provider_rules.judge(installation, findings),
            installation,
            "sender rules",
        )
    finally:
        if "services" in vars(installation):
            installation.services.engine.dispose()


def run_check(check: Check, installation: Installation, name: str = "") -> Iterator[Finding]:
    """Yield the findings of a check; if it raises, a finding about the exception."""
    name = name or check.__name__.replace("_", " ")
    try:
        yield from check(installation)
    except UnansweredError as error:
        yield unknown(name, f"could not be checked: {error}")
    except PaperboyError as error:
        yield bad(name, str(error), "correct this first")
    except Exception as error:  # a bug of ours; the other checks must still run
        log.warning("check.failed", check=name, exc_info=True)
        yield unknown(name, f"could not be checked: {type(error).__name__}")
