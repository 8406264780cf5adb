"""Application factory: routes, middleware and error pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp

from pipeline.bootstrap import Services
from pipeline.errors import DatabaseFileError, InvalidTokenError, LimitError, NotFoundError
from pipeline.mailbox import Mailbox
from pipeline.translations import gettext, gettext_noop
from pipeline.web import mailbox_pages, ops, static_files
from pipeline.web.account import (
    confirm,
    digest_view,
    personal_data,
    preferences,
    reactions,
    saved,
    start,
    unsubscribe,
)
from pipeline.web.client_address import CPUBudget, ProxyWatch
from pipeline.web.middleware import Compressed, SecurityMiddleware
from pipeline.web.papers import authors, thumbnails, topics
from pipeline.web.papers import routes as papers
from pipeline.web.papers.recent import RecentPapers
from pipeline.web.papers.search_index import LiveIndex
from pipeline.web.request_limits import RETRY_AFTER, RequestLimits, one_at_a_time
from pipeline.web.subscribe import curated
from pipeline.web.subscribe import routes as subscribe
from pipeline.web.subscribe.author_lookup import AuthorLookup
from pipeline.web.templating import Pages

log = structlog.get_logger(__name__)

WORDS = {
    404: (
        gettext_noop("Page not found"),
        gettext_noop("The address may be mistyped, or the page may have moved."),
    ),
    405: (
        gettext_noop("Method not allowed"),
        gettext_noop("This address does not accept requests of this kind."),
    ),
    422: (
        gettext_noop("Invalid request"),
        gettext_noop("The address or the form has an invalid value."),
    ),
    429: (
        gettext_noop("Too many searches"),
        gettext_noop("Wait a minute, then reload this page."),
    ),
    500: (
        gettext_noop("Something went wrong"),
        gettext_noop(
            "This is an error on our side. Try again later, and check whether your last change "
            "was saved."
        ),
    ),
    503: (
        gettext_noop("The database is not available"),
        gettext_noop("Try again in a minute."),
    ),
}
TOO_MANY = gettext_noop(
    "Too many emails were requested from your network. Nothing was changed. Try again in an hour."
)
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
REPEATED_HEADERS = ("Allow", "Retry-After", "WWW-Authenticate")  # copied from an error to its page
ROUTERS = (
    ops.router,
    static_files.router,
    papers.router,
    topics.router,
    authors.router,
    thumbnails.router,
    subscribe.router,
    confirm.router,
    preferences.router,
    unsubscribe.router,
    personal_data.router,
    reactions.router,
    saved.router,
    start.router,
    digest_view.router,
)
# The routes are passed to each application as they are: `include_router` would analyse the
# signature of each again, a tenth of a second for each application.
ROUTES = tuple(route for router in ROUTERS for route in router.routes)
LOOPBACK = ["127.0.0.1", "localhost", "[::1]"]


class Site(FastAPI):
    """FastAPI application with `SecurityMiddleware` outside all other middleware.

    Middleware added with `add_middleware` runs inside the handler of uncaught exceptions, so that
    its 500 page would not get the security headers.
    """

    site_url: str

    def build_middleware_stack(self) -> ASGIApp:
        return SecurityMiddleware(super().build_middleware_stack(), self.site_url)


def create_app(
    services: Services,
    mailbox: Mailbox | None = None,
    live_index: LiveIndex | None = None,
    *,
    wake_editions: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the application; it opens no connection until it is served or requested.

    With a `mailbox`, its mails can be read without authentication; the Host header of all requests
    must then be loopback or the site's own host.

    `wake_editions` is called after the response when a subscription is confirmed or preferences are
    saved; without it, first digests and new topics wait for the scheduled task.
    """
    curated.configure(services.settings.curated_topics)
    live_index = live_index or LiveIndex(
        services.engine,
        embedder=services.known_embeddings,
        most=services.settings.search_papers,
    )
    app = Site(
        title="Paperboy",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirected one-click POST is often lost
        lifespan=live_index.while_serving,
        routes=[*ROUTES, *(mailbox_pages.router.routes if mailbox is not None else ())],
    )
    app.site_url = services.settings.site_url
    pages = Pages.of(services.settings, has_mailbox=mailbox is not None)
    app.state.services = services
    app.state.pages = pages
    app.state.live_index = live_index
    app.state.recent = RecentPapers(live_index, services.engine)
    app.state.budget = CPUBudget(services.settings)
    app.state.wake_editions = one_at_a_time(wake_editions)
    app.state.mailbox = mailbox
    app.state.thumbnails = thumbnails.Thumbnails.of(services.settings)
    app.state.author_lookup = AuthorLookup.of(services.settings, services.engine)
    app.state.started_at = datetime.now(UTC)
    if mailbox is not None:
        # DNS rebinding: another site could point its own name at our address and read the mails.
        hosts = [*LOOPBACK, services.settings.site_host]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_middleware(Compressed)
    proxies = services.settings.trusted_proxies
    watch = ProxyWatch(services.engine, proxies)
    app.add_middleware(RequestLimits, pages=pages, trusted_proxies=proxies, watch=watch)
    _explain_errors(app, pages)
    return app


def _allowed(app: FastAPI, request: Request) -> list[str]:
    """Return the methods allowed for a path over all its routes (RFC 9110, section 10.2.1)."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    return [
        method
        for method in METHODS
        if method == "OPTIONS"
        or any(
            route.matches({**scope, "method": method})[0] is Match.FULL
            for route in app.router.routes
        )
    ]


def _explain_errors(app: FastAPI, pages: Pages) -> None:
    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        headers = {
            name: value for name, value in (error.headers or {}).items() if name in REPEATED_HEADERS
        }
        if error.status_code == 405:
            headers["Allow"] = ", ".join(_allowed(app, request))
            if request.method == "OPTIONS":
                return Response(status_code=204, headers=headers)
        title, text = WORDS.get(
            error.status_code, (gettext_noop("Request failed"), str(error.detail))
        )
        answer = pages.message(gettext(title), gettext(text), status=error.status_code)
        answer.headers.update(headers)
        return answer

    @app.exception_handler(RequestValidationError)
    def malformed(_request: Request, _error: RequestValidationError) -> Response:
        return pages.message(*map(gettext, WORDS[422]), status=422)

    @app.exception_handler(NotFoundError)
    def unknown(_request: Request, _error: NotFoundError) -> Response:
        return pages.message(
            gettext("This link no longer works"),
            gettext(
                "The link may be incomplete, or its subscription may have been erased. "
                "Use the link in your most recent email."
            ),
            status=404,
            personal=True,
        )

    @app.exception_handler(InvalidTokenError)
    def expired(_request: Request, error: InvalidTokenError) -> Response:
        return pages.show("gone.html", status=410, reason=str(error))

    @app.exception_handler(LimitError)
    def too_many(_request: Request, error: LimitError) -> Response:
        wait = max(1, int((error.retry_at - datetime.now(UTC)).total_seconds()))
        answer = pages.message(gettext("Too many requests"), gettext(TOO_MANY), status=429)
        answer.headers["Retry-After"] = str(wait)
        return answer

    @app.exception_handler(PoolTimeoutError)
    @app.exception_handler(OperationalError)
    @app.exception_handler(DatabaseFileError)
    def unavailable(_request: Request, error: Exception) -> Response:
        """Return 503 if the database is unreachable or busy, or the pool is exhausted."""
        log.warning("database.unavailable", error=type(error).__name__)
        answer = pages.message(*map(gettext, WORDS[503]), status=503)
        answer.headers["Retry-After"] = str(RETRY_AFTER)
        return answer

    @app.exception_handler(Exception)
    def broken(_request: Request, _error: Exception) -> Response:
        # The server logs the traceback; the page must not show it.
        return pages.message(*map(gettext, WORDS[500]), status=500)
