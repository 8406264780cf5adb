"""Run the whole pipeline once in a temporary folder: three readers and their mail.

Everything is real except the internet: migrations, a Valkey, a Celery worker, an SMTP server. Only
the papers are recorded, unless live sources are requested. Afterwards everything but the mail is
removed.
"""

from pipeline.demo.steps import SAMPLE, run

__all__ = ["SAMPLE", "run"]
