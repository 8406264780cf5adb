"""The embedded services (Valkey, worker, beat) start, do their work, and leave no process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from celery import Celery

from pipeline.local import processes
from pipeline.settings import child_environment

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[1]
APP = "tests.support.celery_app"
SECONDS = 30  # in which a process must act on a busy machine


@pytest.fixture
def notes(tmp_path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def environment(valkey, notes):
    with redis.Redis.from_url(valkey) as client:
        client.flushall()
    return child_environment(REDIS_URL=valkey, NOTES=str(notes), PYTHONPATH=str(ROOT))


@pytest.fixture
def wake(valkey):
    """Return a function that sends a task by name, as another process would."""
    with Celery("sender", broker=valkey, set_as_current=False) as sender:
        yield lambda name, *args: sender.send_task(f"{APP}.{name}", args=args, queue="edition")


def _words(notes: Path) -> list[str]:
    return [line.split()[0] for line in _lines(notes)]


def _pids(notes: Path) -> set[int]:
    return {int(line.split()[1]) for line in _lines(notes)}


def _lines(notes: Path) -> list[str]:
    return notes.read_text().splitlines() if notes.exists() else []


def _wait(condition) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def _is_gone(pid: int) -> bool:
    """Return whether the process has ended; True for a zombie, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def _answers(url: str) -> bool:
    with redis.Redis.from_url(url) as client:
        try:
            return client.ping()
        except redis.ConnectionError:
            return False


def test_valkey_evicts_nothing_and_persists_nothing(valkey):
    """When it is full it returns an error; it never evicts a wake-up silently."""
    with redis.Redis.from_url(valkey, decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("maxmemory")["maxmemory"] != "0"
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}


def test_valkey_rejects_clients_without_the_password(valkey):
    stranger = valkey.replace(valkey.partition("@")[0], "redis://")

    with (
        redis.Redis.from_url(stranger.replace("@", "")) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_two_valkey_servers_run_concurrently_and_stop():
    with processes.valkey() as one, processes.valkey() as other:
        assert one != other

    assert not _answers(one)
    assert not _answers(other)


def test_worker_runs_a_task_and_stops_with_its_children(environment, notes, wake):
    with processes.worker(environment, concurrency=2, app=APP) as worker:
        wake("note", "hello")
        _wait(lambda: _words(notes) == ["hello"])

    assert _is_gone(worker.pid)
    assert all(map(_is_gone, _pids(notes)))


def test_stopped_worker_finishes_its_current_task(environment, notes, wake):
    with processes.worker(environment, concurrency=1, app=APP):
        wake("work", 1.0)
        _wait(lambda: "started" in _words(notes))

    assert _words(notes) == ["started", "finished"]


def test_a_worker_that_does_not_stop_is_killed_with_its_children(environment, notes, wake):
    with processes.worker(environment, concurrency=1, app=APP) as worker:
        wake("work", 600)
        _wait(lambda: "started" in _words(notes))

        worker.stop(timeout=0.5)

        _wait(lambda: all(map(_is_gone, {worker.pid, *_pids(notes)})))
    assert "finished" not in _words(notes)


def test_beat_sends_periodic_tasks_to_the_worker(environment, notes):
    with (
        processes.worker(environment, concurrency=1, app=APP),
        processes.beat(environment, app=APP),
    ):
        _wait(lambda: _words(notes)[:2] == ["tick", "tick"])


@pytest.mark.skipif(sys.platform != "linux", reason="the system cannot tell us of a parent's death")
def test_child_processes_end_if_the_parent_is_killed(environment):
    """`kill -9` runs no handler, and still no process of ours is left."""
    script = f"""
import time
from pipeline.local import processes
from pipeline.settings import child_environment
with processes.valkey() as url, processes.worker(child_environment(), app="{APP}") as worker:
    print(url, worker.pid, flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url, worker_pid = parent.stdout.readline().split()

        parent.kill()

    _wait(lambda: _is_gone(int(worker_pid)))
    _wait(lambda: not _answers(url))


def test_child_does_not_start_if_its_parent_has_ended(tmp_path):
    """The parent may die before the child has requested its death signal."""
    guard = [sys.executable, "-I", "-S", "-c", processes._GUARD, str(os.getppid())]
    proof = tmp_path / "proof"

    ended = subprocess.run([*guard, "/bin/sh", "-c", f"echo > {proof}"], stderr=subprocess.DEVNULL)

    assert ended.returncode == 1
    assert not proof.exists()
