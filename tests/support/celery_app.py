"""A minimal Celery app for the worker and the beat that embedded.py starts."""

from __future__ import annotations

import os
import time

from celery import Celery

app = Celery("tests", broker=os.environ["REDIS_URL"])
app.conf.update(
    beat_schedule={
        "tick": {"task": "tests.support.celery_app.note", "schedule": 0.1, "args": ["tick"]}
    },
    broker_connection_retry_on_startup=True,
    task_default_queue="edition",
    task_ignore_result=True,
)


@app.task
def note(word: str) -> None:
    """Append the word and the id of this process to the file that the test reads."""
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{word} {os.getpid()}\n")


@app.task
def work(seconds: float) -> None:
    note("started")
    time.sleep(seconds)
    note("finished")
