"""The pages that mail leads to; plain HTML that works without a script."""

from pipeline.web.app import create_app

__all__ = ["create_app"]
