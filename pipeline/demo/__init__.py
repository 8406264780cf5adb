"""The whole pipeline once, in a folder of its own: three readers, their mail, nothing left behind.

Everything is the real thing but the internet: migrations, a Valkey, a Celery worker, an SMTP
server. Only the papers are recorded ones, unless the live sources are asked for.
"""

from pipeline.demo.steps import SAMPLE, run

__all__ = ["SAMPLE", "run"]
