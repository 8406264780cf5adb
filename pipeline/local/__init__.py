"""Run Paperboy on one machine: `paperboy up`, the demo, and the services that they start.

Everything in the demo is real except the internet: migrations, a Valkey, a Celery worker, an SMTP
server. Only the papers are recorded, unless live sources are requested. Afterwards everything but
the mail is removed.
"""
