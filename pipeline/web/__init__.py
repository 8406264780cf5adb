"""The website: search, sign-up and account pages, as plain HTML that works without JavaScript."""

from pipeline.web.app import create_app

__all__ = ["create_app"]
