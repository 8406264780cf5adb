"""The image and docker-compose.yml: valid, consistent, and each service starts with its command.

There may be no Docker where tests run: `tests/support/containers.py` runs the services without it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli.main import COMMANDS
from pipeline.settings import Settings
from pipeline.tasks import app
from tests.support import containers

ROOT = Path(__file__).resolve().parents[1]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = FILE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = [name for name, service in SERVICES.items() if service["image"] == "paperboy"]
WORKERS = {"ingest": "2", "edition": "1", "dispatch": "2"}  # queue and service: processes


# --- docker-compose.yml -------------------------------------------------------------------------


def test_compose_file_is_valid():
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", "docker-compose.yml"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_services_without_a_profile_are_those_of_an_installation():
    started = {name for name, service in SERVICES.items() if "profiles" not in service}
    optional = {name: service["profiles"] for name, service in SERVICES.items()
                if "profiles" in service}  # fmt: skip

    assert started == {"postgres", "redis", "migrate", "web", *WORKERS, "beat"}
    assert optional == {name: [name] for name in ("proxy", "mail-catcher", "backup")}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_are_limited_checked_and_stopped_gracefully(name):
    service = SERVICES[name]

    assert "healthcheck" in service or name == "migrate"
    assert service["stop_grace_period"] == "90s"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only") or name == "postgres"
    assert service["pids_limit"]
    assert service["mem_limit"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "5"}
    assert name == "proxy" or all(port.startswith("127.") for port in service.get("ports", []))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_dependencies_start_without_a_profile(name):
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        assert "profiles" not in SERVICES[needed]
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[needed]
        else:
            assert SERVICES[needed]["restart"] == "no"


def test_volumes_are_declared_and_used():
    used = {
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if isinstance(volume, str) and not volume.startswith("./")
    }

    assert used == set(FILE["volumes"])


def test_images_are_pinned_by_version():
    for name, service in SERVICES.items():
        assert re.search(r":v?\d", service["image"]) or name in OURS


def test_image_is_built_by_one_service_and_never_pulled():
    """Compose would build the same tag at once for each service, or look for it in a registry."""
    assert [name for name, service in SERVICES.items() if "build" in service] == ["migrate"]
    for name in OURS:
        assert SERVICES[name]["pull_policy"] == "never"
        needed = SERVICES[name]["depends_on"]
        assert name == "migrate" or "migrate" in needed


def test_postgres_is_healthy_only_when_it_answers_by_tcp():
    """At the first start the image runs a server that answers on its Unix socket only."""
    assert "--host=127.0.0.1" in SERVICES["postgres"]["healthcheck"]["test"]
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_redis_does_not_evict_or_persist():
    command = " ".join(SERVICES["redis"]["command"])

    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly no" in command


@pytest.mark.parametrize("name", OURS)
def test_password_of_the_database_may_have_any_characters(name):
    """In a URL it would have to be encoded, which Compose cannot do."""
    variables = SERVICES[name]["environment"]

    assert variables["PGPASSWORD"] == SERVICES["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert variables["DATABASE_URL"] == "postgresql://paperboy@postgres/paperboy"


def test_variables_of_the_services_are_settings():
    others = {"PGPASSWORD", "BACKUP_DAYS"}
    for name in OURS:
        assert {*SERVICES[name]["environment"]} - others <= {
            field.upper() for field in Settings.model_fields
        }


@pytest.mark.parametrize("name", ["migrate", "web"])
def test_paperboy_commands_of_the_compose_file_exist(name):
    program, first, *words = SERVICES[name]["command"]
    command = COMMANDS[first].load(first)

    assert program == "paperboy"
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context(name, words, resilient_parsing=False)
    assert context.params is not None


def test_each_queue_has_a_worker_of_its_own():
    assert set(WORKERS) == {queue.name for queue in app.conf.task_queues}
    for queue, processes in WORKERS.items():
        command = SERVICES[queue]["command"]
        assert command[:4] == ["celery", "-A", "pipeline.tasks", "worker"]
        assert command[command.index("--queues") + 1] == queue
        assert command[command.index("--concurrency") + 1] == processes
    assert SERVICES["beat"]["command"][:4] == ["celery", "-A", "pipeline.tasks", "beat"]


# --- The daily backup ---------------------------------------------------------------------------

WRITES, FAILS = 'echo archive > "$2"', "exit 1"


@pytest.fixture
def back_up(tmp_path):
    """Return a function that runs one round of the loop and returns the files it leaves."""
    folder, programs = tmp_path / "backups", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    script = containers.interpolated(SERVICES["backup"]["command"][2], {})
    script = script.replace("/backups", str(folder)).replace("sleep 3600", "exit 0")

    def back_up(paperboy: str, *existing: str) -> list[str]:
        for name in existing:
            (folder / name).touch()
        (programs / "paperboy").write_text(f"#!/bin/sh\n{paperboy}\n")
        (programs / "paperboy").chmod(0o755)
        variables = {"PATH": f"{programs}:{os.environ['PATH']}", "BACKUP_DAYS": "3"}
        subprocess.run(["sh", "-c", script], env=variables, check=True)
        return sorted(path.name for path in folder.iterdir())

    return back_up


def _day(number: int) -> str:
    return f"paperboy-2001-02-0{number}.zip"


def test_backup_replaces_the_oldest_of_those_kept(back_up):
    kept = back_up(WRITES, ".paperboy-2001-02-01.zip.7", *map(_day, range(1, 5)))

    assert kept[:2] == [_day(3), _day(4)]
    assert re.fullmatch(r"paperboy-20\d\d-\d\d-\d\d\.zip", kept[2])
    assert back_up(FAILS) == kept  # once a day


def test_failed_backup_removes_none_of_those_kept(back_up):
    old = [_day(1), _day(2), _day(3)]

    assert back_up(FAILS, *old) == old


# --- The image ----------------------------------------------------------------------------------


def _is_sent(path: str) -> bool:
    """Return whether .dockerignore lets a file into the build: the last matching line decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().split():
        pattern = line.removeprefix("!").rstrip("/")
        parts = Path(path).parts
        above = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
        if any(_matches(one, pattern) for one in above):
            sent = line.startswith("!")
    return sent


def _matches(path: str, pattern: str) -> bool:
    anywhere = pattern.removeprefix("**/")
    if anywhere != pattern:
        return fnmatch(Path(path).name, anywhere)
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def test_files_copied_into_the_image_exist_and_are_sent_to_the_build():
    for source in containers.copied_from_context():
        assert (ROOT / source).exists()
        assert _is_sent(source)


@pytest.mark.parametrize(
    "path",
    [
        *(".env", ".git/config", "files/news1.pem", "backups/paperboy.zip", "paperboy.db"),
        *("tests/test_docker.py", ".venv/bin/python", "var/up.log", "docs/deploy.md"),
        *("pipeline/local.db-wal", "pipeline/key.pem", "pipeline/.env.local", "emails/.env"),
        *("pipeline/cli/__pycache__/main.cpython-311.pyc",),
    ],
)
def test_secrets_and_large_files_are_not_sent_to_the_build(path):
    assert not _is_sent(path)


def test_image_is_built_in_two_stages_and_runs_as_an_unprivileged_user():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    final = containers.final_stage()

    assert bases == ["python:3.11-slim"] * 2
    assert "pip install" not in final
    assert containers.user() == ("10001", "10001")
    assert containers.entries()
    assert re.search(r"^STOPSIGNAL SIGTERM$", final, re.MULTILINE)
    assert f"CMD {SERVICES['web']['command']}".replace("'", '"') in final


def test_packages_of_the_model_are_installed_if_its_setting_is_given():
    assert SERVICES["migrate"]["build"]["args"] == {"SEMANTIC_MODEL": "${SEMANTIC_MODEL:-}"}
    (step,) = re.findall(r"^RUN (if .*)$", DOCKERFILE, re.MULTILINE)
    for given, installed in (("", ""), ("a/model", "requirements-semantic.txt")):
        script = step.replace("pip install --require-hashes -r", "echo")
        printed = subprocess.run(
            ["sh", "-c", script],
            env={"SEMANTIC_MODEL": given},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert printed.strip() == installed


# --- The services -------------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.skipif(not containers.available(), reason="only root may create namespaces")
def test_services_start_answer_and_stop_in_a_read_only_root():
    found = containers.report()

    assert found["postgres at its first start"] == 2  # no answer
    assert found["postgres"] == 0
    assert found["migrate"] == 0  # it has waited
    long_running = ["web", *WORKERS, "beat", "backup"]
    assert found["running"] == long_running  # and their health checks have succeeded
    assert found["warnings"] == []
    assert found["write"] == ["/tmp", "10001", "10001", "CapBnd:\t0000000000000000"]
    assert found["stopped"] == dict.fromkeys(long_running, 0) | {"backup": -signal.SIGTERM}
