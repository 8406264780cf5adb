"""Check an installation and report problems with advice: `paperboy doctor`.

There is one file for each area. A check is a generator of findings about an installation; its
function name is the name of the check. `finding` defines both, `resolver` and `spf` query the DNS,
and `provider_rules` summarises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

import structlog

from pipeline.broker import Worker
from pipeline.doctor import database, dns, mail, provider_rules, services, settings, site
from pipeline.doctor.finding import Check, Finding, Installation, bad, unknown
from pipeline.errors import PaperboyError, UnansweredError
from pipeline.settings import Settings
from pipeline.storage import stats
from pipeline.storage.database import read_only

__all__ = ["Finding", "Installation", "examine", "run_check"]

AREAS = (settings, database, services, site, dns, mail)

log = structlog.get_logger(__name__)


def overview(installation: Installation) -> Iterator[Finding]:
    """Report the reasons of /readyz, which come only after a while, and too high rates."""
    with read_only(installation.services.engine) as conn:
        made = stats.read_stats(conn, installation.now)
    for reason in stats.steps_and_holds(made, installation.now, installation.now):
        yield bad("progress", reason, "docs/monitoring.md says what to check")
    yield from services.rates(made.week)


UNATTENDED: tuple[Check, ...] = (
    *(settings.settings, settings.sender, settings.secret_keys, settings.dkim_keys),
    *(database.durability, database.local_disk, database.database_file, database.disk),
    *(services.redis, overview, site.site_tls, *dns.CHECKS),
)
"""Checks whose failures last until the operator acts; others may fail for a moment."""


def failures(loaded: Settings, now: datetime) -> list[Finding]:
    """Return the failures of the checks in UNATTENDED, for the daily mail to the operator."""
    installation = Installation(loaded, now)
    try:
        found = [one for check in UNATTENDED for one in run_check(check, installation)]
    finally:
        if "services" in vars(installation):
            installation.services.engine.dispose()
    return [finding for finding in found if finding.ok is False]


def examine(
    loaded: Settings,
    now: datetime,
    find_workers: Callable[[Settings, float], list[Worker]] | None = None,
) -> Iterator[Finding]:
    """Yield each finding as it is made. Changes nothing and sends no mail."""
    installation, findings = Installation(loaded, now, find_workers), []
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
