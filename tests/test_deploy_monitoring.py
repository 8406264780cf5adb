"""Alert rules and dashboard: they can be loaded, and use only metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine

from pipeline import settings
from pipeline.bootstrap import Services
from pipeline.domain import LIST_MAIL
from pipeline.web import ops

ROOT = Path(__file__).resolve().parents[1]
ALERTS = ROOT / "deploy" / "prometheus-alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())


def _expressions() -> list[str]:
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [rule["expr"] for rule in RULES] + [target["expr"] for target in targets]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_every_metric_of_the_rules_and_the_dashboard_exists(engine: Engine):
    now = datetime.now(UTC)
    registry = ops.collect(Services(settings.load(None), engine), now, now)
    existing = {m.name + "_total" * (m.type == "counter") for m in registry.collect()}

    used = set(re.findall(r"paperboy_\w+", " ".join(_expressions())))

    assert used <= existing
    assert used


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_rule_waits_and_names_a_documented_check(rule: dict[str, Any]):
    """A rule without `for` would report what one scrape finds, such as a restart."""
    documented = (ROOT / "docs" / "monitoring.md").read_text()

    assert re.fullmatch(r"\d+[mhd]", rule["for"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["check"] in documented
    assert rule["annotations"]["summary"]


def test_expired_mails_are_compared_for_the_kinds_of_list_mail():
    (rule,) = (rule for rule in RULES if rule["alert"] == "PaperboyEditionExpired")

    kinds = re.findall(r'\{kind=~"(.*?)"\}', rule["expr"])

    assert len(kinds) == rule["expr"].count("_total") == 3
    assert all(set(some.split("|")) == set(LIST_MAIL) for some in kinds)


def test_names_and_panels_are_unique():
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("expression", _expressions())
def test_brackets_of_expressions_are_balanced(expression: str):
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


if shutil.which("promtool"):

    def test_promtool_accepts_the_rules():
        command = ["promtool", "check", "rules", str(ALERTS)]
        checked = subprocess.run(command, capture_output=True, text=True, check=False)

        assert checked.returncode == 0, checked.stdout + checked.stderr
