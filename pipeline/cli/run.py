"""Commands that run Paperboy until a signal ends them: demo, up, serve."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer

from pipeline import settings
from pipeline.cli.output import UsageError
from pipeline.setting_values import is_loopback

# These commands import their modules when they run: that takes a second, and other commands must
# not wait for it.

log = structlog.get_logger(__name__)

app = typer.Typer()

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free port.")]
STOPPED = 130  # exit code of a program ended by Ctrl-C, by shell convention


@dataclass(slots=True)
class Interrupt:
    """Signal handler that raises KeyboardInterrupt and sets `came`.

    Python raises the exception at any point of the main thread. If that is in a finalizer, the
    exception is printed and lost; therefore loops that wait also check `came`.
    """

    came: bool = False

    def __call__(self, _number: int, _frame: Any) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@app.command("demo")
def demo_command(
    papers: Annotated[
        Path | None, typer.Option("--papers", metavar="FILE", help="A recorded answer to read.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Fetch from the real sources.")] = False,
    mail_dir: Annotated[
        Path, typer.Option("--mail-dir", metavar="DIR", help="Where the mail is written.")
    ] = Path("demo-mail"),
) -> None:
    """Run the whole pipeline once, without settings: send three digests to a folder."""
    from pipeline.local import demo

    if papers and live:
        raise UsageError("use either --papers or --live")
    files = (papers,) if papers else demo.SAMPLE
    with interruptible() as interrupt:
        try:
            demo.run(
                files=files,
                live=live,
                mail_dir=mail_dir,
                now=datetime.now(UTC),
                stop=lambda: interrupt.came,
            )
        except KeyboardInterrupt:
            raise typer.Exit(STOPPED) from None


@app.command("up")
def up_command(port: Port = 8000) -> None:
    """Run site, workers and schedule in this terminal; without a mail server, with a mailbox."""
    from pipeline.local import up

    with interruptible(), suppress(KeyboardInterrupt):
        up.run(port)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen on.")] = "127.0.0.1",
    port: Port = 8000,
) -> None:
    """Run the site, without workers and schedule."""
    from pipeline import bootstrap, tasks
    from pipeline.storage import keys
    from pipeline.web import create_app
    from pipeline.web.server import POOL_TIMEOUT, listen, server

    loaded = settings.load()
    loaded.check_site(host)
    ours = bootstrap.build(loaded, pool_timeout=POOL_TIMEOUT)
    settings.log_suspicions()
    keys.log_origin(ours.settings, ours.keys)
    if is_loopback(ours.settings.site_host) and not is_loopback(host):
        log.warning(
            "site_url.missing",
            advice="links lead to this machine only: set SITE_URL",
            listening_on=host,
        )
    wake_editions = partial(tasks.wake_editions, ours.settings)
    site = server(create_app(ours, wake_editions=wake_editions))
    with interruptible(), suppress(KeyboardInterrupt), listen(host, port) as socket:
        typer.echo(f"Serving on {host}, port {socket.getsockname()[1]}", err=True)
        site.run(sockets=[socket])
