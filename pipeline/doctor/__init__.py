"""Looks at an installation and says what is wrong with it, and what to do: `paperboy doctor`.

One file for each area. A check is a generator of findings about a patient; the name of its
function is the name of the check. `finding` has both, `resolver` and `spf` read the DNS, `lint`
reads a mail, and `rules` sums up.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import structlog

from pipeline.doctor import database, dns, mail, rows, rules, services, settings, site
from pipeline.doctor.finding import Check, Finding, Patient, bad, unknown
from pipeline.errors import PaperboyError, UnansweredError
from pipeline.settings import Settings

__all__ = ["Finding", "examine"]

AREAS = (settings, database, rows, services, site, dns, mail)

log = structlog.get_logger(__name__)


def examine(loaded: Settings, now: datetime) -> Iterator[Finding]:
    """Every finding, as it is made. Nothing is changed, and no mail is sent."""
    patient, findings = Patient(loaded, now), []
    try:
        for check in (check for area in AREAS for check in area.CHECKS):
            for finding in _safely(check, patient):
                findings.append(finding)
                yield finding
        yield from _safely(lambda patient: rules.judge(patient, findings), patient, "sender rules")
    finally:
        if "services" in vars(patient):
            patient.services.engine.dispose()


def _safely(check: Check, patient: Patient, name: str = "") -> Iterator[Finding]:
    """What a check finds; where it breaks, that. The others go on."""
    name = name or check.__name__.replace("_", " ")
    try:
        yield from check(patient)
    except UnansweredError as error:
        yield unknown(name, f"could not be checked: {error}")
    except PaperboyError as error:
        yield bad(name, str(error), "correct this first")
    except Exception as error:  # a mistake of ours; the doctor must finish the round
        log.warning("check broke", check=name, exc_info=True)
        yield unknown(name, f"could not be checked: {type(error).__name__}")
