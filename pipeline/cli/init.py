"""The command that writes .env: it asks for each setting, tests the answer, and prepares the rest.

Nothing is written before all questions are answered and the changes are confirmed.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from pipeline import setting_files, settings
from pipeline.cli import config, database, keys, units
from pipeline.cli import doctor as doctor_cli
from pipeline.cli.output import UsageError, complain, new_private_file
from pipeline.dkim import Algorithm, new_key
from pipeline.dkim.keys import ENOUGH, check_selector
from pipeline.doctor import Finding, Installation, dns, run_check, services, site
from pipeline.doctor import database as stored
from pipeline.doctor.finding import Check
from pipeline.doctor.mail import wire_sample
from pipeline.domain import DeliveryKind
from pipeline.errors import PaperboyError, SettingsError
from pipeline.preview import send_once
from pipeline.setting_values import LoginURL, is_loopback, parse_login_url
from pipeline.settings import Settings
from pipeline.smtp.providers import PROVIDERS, Provider, provider_of
from pipeline.storage.database import read_only

app = typer.Typer()

LOCAL_PROXY: Final = "127.0.0.1 ::1"
DATA: Final = Path("/var/lib/paperboy")  # the home of the user in deploy/systemd
NEEDED: Final = ("site_url", "mail_from", "smtp_url", "operator_address")  # no usable default
HEADER: Final = "# Settings of Paperboy; `paperboy config` lists them all. See docs/settings.md.\n"

_say = typer.echo


@app.command("init")
def init_command(
    site_url: Annotated[
        str | None, typer.Option("--site-url", metavar="URL", help="The site, with https.")
    ] = None,
    mail_from: Annotated[
        str | None, typer.Option("--mail-from", metavar="MAILBOX", help="The sender.")
    ] = None,
    smtp_url: Annotated[
        str | None,
        typer.Option("--smtp-url", metavar="URL|-", help="Mail server; -: the URL comes on stdin."),
    ] = None,
    operator_name: Annotated[
        str | None, typer.Option("--operator-name", metavar="NAME", help="In every mail.")
    ] = None,
    operator_address: Annotated[
        str | None, typer.Option("--operator-address", metavar="TEXT", help="Postal, in one line.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", metavar="URL", help="SQLite or PostgreSQL.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option("--redis-url", metavar="URL", help="Redis or Valkey.")
    ] = None,
    trusted_proxies: Annotated[
        str | None,
        typer.Option("--trusted-proxies", metavar="ADDRESSES", help="Of the reverse proxy."),
    ] = None,
    dkim: Annotated[
        str | None, typer.Option("--dkim", metavar="SELECTOR", help="Generate a DKIM key.")
    ] = None,
    test_mail: Annotated[
        str | None, typer.Option("--test-mail", metavar="ADDRESS", help="Send a sample digest.")
    ] = None,
    unit_folder: Annotated[
        Path | None, typer.Option("--units", metavar="DIR", help="Write systemd units there.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing; keep what is set, and answers that fail.")
    ] = False,
) -> None:
    """Ask for the settings, test each answer, write .env, and prepare the installation.

    Settings given as options are not asked for. An existing .env keeps its other lines, and Enter
    keeps a value. It can be run again at any time; an interruption changes nothing.
    """
    path = _env_file()
    _check_owner(path.parent)
    given = {
        "site_url": site_url,
        "mail_from": mail_from,
        "smtp_url": sys.stdin.readline().strip() if smtp_url == "-" else smtp_url,
        "operator_name": operator_name,
        "operator_address": operator_address,
        "database_url": database_url,
        "redis_url": redis_url,
        "trusted_proxies": trusted_proxies,
    }
    dialogue = Dialogue(path, {n: v for n, v in given.items() if v is not None}, yes)
    _ask_all(dialogue)
    selector = dialogue.dkim_selector(dkim)
    if not dialogue.write(selector):
        _say("Nothing was changed.")
        return
    _prepare(dialogue, test_mail, unit_folder)


def _env_file() -> Path:
    """Return the `.env` that commands here read; if there is none, that of the installation."""
    path = settings.find_env_file().absolute()
    if path.exists() or settings.INSTALLATION is None:
        return path
    return settings.INSTALLATION / settings.ENV_FILE


def _check_owner(folder: Path) -> None:
    """Raise PaperboyError for root in the folder of another user, who could not read the files."""
    owner = folder.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        user = units.user_name(owner)
        raise PaperboyError(f"{folder} belongs to {user}: run this as that user (sudo -u {user})")


def _replace(path: Path, text: str) -> None:
    """Write a file with mode 0600; one of another owner or group keeps these, and its readers."""
    old = path.stat() if path.exists() else None
    if old and (old.st_uid, old.st_gid) == (os.geteuid(), os.getegid()):
        old = None
    with new_private_file(path, force=True) as file:
        file.write(text)
        if old is not None:
            with suppress(PermissionError):
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode) & 0o640)


def _ask_all(dialogue: Dialogue) -> None:
    ask = dialogue.ask
    ask("site_url", "Address of the site (https)", checks=(site.site_tls,))
    if not is_loopback(dialogue.candidate.site_host):
        ask("trusted_proxies", "Addresses of the reverse proxy", default=LOCAL_PROXY)
    ask("mail_from", "Sender of the mail, Name <address>", checks=(dns.mx,))
    dialogue.settle("smtp_url", dialogue.smtp_url, MAIL_SERVER)
    ask("operator_name", "Name of the operator, as readers know it")
    ask("operator_address", "Postal address of the operator, in one line")
    dialogue.settle("database_url", dialogue.database_url, DATABASE)
    dialogue.settle("redis_url", partial(dialogue.login_url, "redis_url", "Redis"), REDIS)


def _database_rights(installation: Installation) -> Iterator[Finding]:
    """Check that tables can be created: in the folder of a SQLite file, or in a PostgreSQL schema.

    Unlike the doctor's check, a SQLite file that does not exist yet is no problem.
    """
    engine = installation.services.engine
    if engine.dialect.name == "sqlite":
        folder = Path(engine.url.database or ".").absolute().parent
        ready = os.access(folder, os.W_OK | os.X_OK)
        detail = f"{folder} is {'' if ready else 'missing or not '}writable"
        yield Finding("database", ready, detail, "" if ready else "create it, or choose another")
        return
    yield from stored.database(installation)
    if installation.database_trouble:
        return
    with read_only(engine) as conn:
        can = conn.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar()
    advice = "" if can else "make this user the owner: ALTER DATABASE ... OWNER TO ..."
    yield Finding("database rights", bool(can), f"tables can{'' if can else 'not'} be made", advice)


MAIL_SERVER: Final = (services.smtp, services.smtp_tls)
DATABASE: Final = (_database_rights, stored.local_disk)
REDIS: Final = (services.redis,)


@dataclass
class Dialogue:
    """The questions and their answers so far; `yes` answers each question with its default."""

    path: Path  # of .env
    given: dict[str, str]  # answers from options, not used yet
    yes: bool
    answers: dict[str, str] = field(default_factory=dict)
    dkim_file: Path | None = None

    def __post_init__(self) -> None:
        self.before = settings.load(self.path)
        self.origins = settings.origins(self.path)
        self.candidate = self.before
        missing = [n for n in NEEDED if n not in self.given and not self.is_set(n)]
        if self.yes and missing:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
            raise UsageError(f"--yes needs {options}")

    def is_set(self, name: str) -> bool:
        return self.origins[name.upper()] != "default"

    # --- One setting ----------------------------------------------------------------------------

    def ask(
        self, name: str, label: str, *, default: str = "", checks: tuple[Check, ...] = ()
    ) -> None:
        """Ask for a setting, by default its present value, and test it."""
        present = config.shown(self.before, name) if self.is_set(name) else default
        self.settle(name, lambda: self.prompt(label, present), checks)

    def settle(self, name: str, question: Callable[[], str], checks: tuple[Check, ...]) -> None:
        """Ask until the answer is valid and passes its checks, or is kept in spite of them."""
        while True:
            value = self.given.pop(name, None)
            value = question() if value is None else value
            if self.yes and not value:
                return
            try:
                self.candidate = settings.load(self.path, **{**self.answers, name: value})
            except SettingsError as error:
                if self.yes:
                    raise
                complain(str(error))
                continue
            findings = self._examined(checks)
            is_bad = any(finding.ok is False for finding in findings)
            if self.yes or not is_bad or not typer.confirm("Enter it again?", default=True):
                self._note_environment(name)
                self.answers[name] = value
                return

    def _examined(self, checks: Iterable[Check]) -> list[Finding]:
        """Run the checks, and print their findings without the passwords."""
        installation = Installation(self.candidate, datetime.now(UTC))
        found = [
            replace(one, detail=self._redacted(one.detail), advice=self._redacted(one.advice))
            for check in checks
            for one in run_check(check, installation, _title(check))
        ]
        if "services" in vars(installation):
            installation.services.engine.dispose()
        doctor_cli.show_findings(iter(found))
        return found

    def _redacted(self, said: str) -> str:
        password = self.candidate.smtp.password
        return said.replace(password, config.HIDDEN) if password else said

    def _note_environment(self, name: str) -> None:
        if self.origins[name.upper()] == "environment":
            complain(f"{name.upper()} is set in the environment, too, which has priority over .env")

    def prompt(self, label: str, default: str = "", *, optional: bool = False) -> str:
        if self.yes:
            return default
        answer: str = typer.prompt(label, default=default or ("" if optional else None),
                                   show_default=bool(default))  # fmt: skip
        return answer.strip()

    def _password(self, label: str) -> str:
        """Read a password without showing it; empty if none was entered."""
        if self.yes:
            return ""
        hide = sys.stdin.isatty()
        answer: str = typer.prompt(label, default="", show_default=False, hide_input=hide)
        return answer.strip()

    # --- Settings of several parts --------------------------------------------------------------

    def smtp_url(self) -> str:
        """Ask for provider, user and password. An empty password keeps that of the same user."""
        present = _login_url(self.before, "smtp_url") if self.is_set("smtp_url") else None
        if self.yes:
            return str(present) if present else self.before.smtp_url.get_secret_value()
        provider = self._provider(present)
        host, port = self._server(provider, present)
        keeps = present if present is not None and present.host == host else None
        _say(f"Login: {provider.login}.")
        user = self.prompt("User name", (keeps and keeps.username) or provider.user, optional=True)
        url = LoginURL("smtps" if port == 465 else "smtp", user or None, None, host, port, "", "")
        return str(self._with_password(url, keeps)) if user else str(url)

    def _token_url(self, host: str, port: int, present: LoginURL | None) -> str:
        """Ask for a token that is user name and password; an empty answer keeps the present one."""
        token = self._password("Token") or (present.password if present else None)
        return str(LoginURL("smtp", token, token, host, port, "", ""))

    def _provider(self, present: LoginURL | None) -> Provider:
        for number, provider in enumerate(PROVIDERS, start=1):
            _say(f"  {number:>2}  {provider.name}")
        likely = provider_of(present.host) or PROVIDERS[-1] if present else None
        default = str(PROVIDERS.index(likely) + 1) if likely else ""
        while True:
            answer = self.prompt("Who sends your mail?", default)
            if answer.isdecimal() and 1 <= int(answer) <= len(PROVIDERS):
                return PROVIDERS[int(answer) - 1]
            complain(f"enter a number from 1 to {len(PROVIDERS)}")

    def _server(self, provider: Provider, present: LoginURL | None) -> tuple[str, int]:
        host, port = provider.host, provider.port
        if present is not None and (provider_of(present.host) or PROVIDERS[-1]) == provider:
            host, port = present.host, present.port or port
        elif "{region}" in host:
            host = host.format(region=self.prompt("Region", "eu-west-1"))
        host = self.prompt("Mail server", host)
        return host, typer.prompt("Port", default=port, type=int)

    def _with_password(self, url: LoginURL, present: LoginURL | None) -> LoginURL:
        """Ask for the password of a URL; an empty answer keeps that of the same user and host."""
        same = (
            present is not None
            and (present.host, present.username) == (url.host, url.username)
            and present.password is not None
        )
        password = self._password(f"Password{' (empty: keep the present one)' if same else ''}")
        return replace(url, password=password or (present.password if same and present else None))

    def login_url(self, name: str, label: str, default: str = "") -> str:
        """Ask for the URL of a server; its password separately, so that no terminal shows it."""
        present = _login_url(self.before, name)
        if self.yes:
            return str(present)
        shown = default or str(replace(present, password=None))
        answer = self.prompt(f"{label}, as a URL without the password", shown)
        try:
            url = parse_login_url(answer)
        except ValueError:
            return answer  # rejected as a setting, with the reason
        return str(url if url.password is not None else self._with_password(url, present))

    def database_url(self) -> str:
        """Ask for SQLite or PostgreSQL. A missing folder of a SQLite file is created."""
        present, is_set = self.before.database_url, self.is_set("database_url")
        if self.yes and is_set:
            return present
        is_file = present.startswith("sqlite")
        kind = self.prompt("Database: sqlite or postgresql", "sqlite" if is_file else "postgresql")
        if kind.lower().startswith("p"):
            example = "postgresql://paperboy@localhost/paperboy" if is_file else ""
            return self.login_url("database_url", "PostgreSQL", example)
        own = present.partition(":///")[2] if is_file and is_set else str(self._usual_file())
        file = (self.path.parent / self.prompt("File of the database", own)).absolute()
        if os.access(file.parent.parent, os.W_OK):
            file.parent.mkdir(mode=0o700, exist_ok=True)
        return f"sqlite:///{file}"

    def _usual_file(self) -> Path:
        """Return the file of an earlier trial, else one in a folder that only holds data."""
        trial = self.path.parent / "paperboy.db"
        if trial.exists():
            return trial
        is_ours = os.access(DATA, os.W_OK)
        return (DATA if is_ours else self.path.parent / "data") / "paperboy.db"

    def dkim_selector(self, wanted: str | None) -> str | None:
        """Return the selector of a DKIM key to generate; None if the mail server signs."""
        if wanted is not None:
            check_selector(wanted)
            if self.is_set("dkim_keys"):  # a key must be published before it signs
                raise PaperboyError(
                    "--dkim: there is a key already; see docs/dns-and-dkim.md to add another"
                )
            return wanted
        if self.yes or self.is_set("dkim_keys"):
            return None
        provider = provider_of(self.candidate.smtp.host)
        signs = provider is not None and provider.signs
        _say(f"Your provider {'signs the mail with' if signs else 'may not sign the mail:'} DKIM.")
        is_wanted = not signs and not self.is_set("smtp_url")  # a second run keeps a refusal
        if not typer.confirm("Generate a DKIM key, and let Paperboy sign?", default=is_wanted):
            return None
        return self.prompt("Selector, a new name", f"news{datetime.now(UTC):%Y}a")

    # --- Writing --------------------------------------------------------------------------------

    def write(self, selector: str | None) -> bool:
        """Show the changes and, if they are confirmed, write .env; return whether it is written."""
        if selector is not None:
            self.dkim_file = self.path.parent / f"dkim-{selector}.pem"
            self.answers["dkim_keys"] = f"{selector}:{self.dkim_file}"
        changes = dict(self._changes())
        old = self.path.read_text("utf-8-sig") if self.path.exists() else ""
        new = setting_files.rewritten(old or self._new_text(), changes)
        if old and new == old:
            _say(f"{self.path} stays as it is.")
            return True
        self._show_changes(changes)
        if not self.yes and not typer.confirm(f"Write {self.path}?", default=True):
            return False
        if selector is not None and self.dkim_file is not None:
            keys.write_key(self.dkim_file, new_key(Algorithm.RSA, ENOUGH))
        _replace(self.path.resolve(), new)
        _say(f"{self.path} is written, readable by you only.")
        return True

    def _new_text(self) -> str:
        """Return the text that a new .env begins with: the commented settings, if they are here."""
        example = settings.INSTALLATION and settings.INSTALLATION / ".env.example"
        return example.read_text("utf-8") if example and example.is_file() else HEADER

    def _changes(self) -> Iterator[tuple[str, str | None]]:
        """Yield the settings whose value is new; one that a file contained replaces that file."""
        for name, value in self.answers.items():
            new = settings.load(self.path, **{name: value}) if name != "dkim_keys" else None
            is_new = new is None or getattr(new, name) != getattr(self.before, name)
            if not is_new and self.is_set(name):
                continue
            if "_FILE of " in self.origins[name.upper()]:
                yield f"{name.upper()}_FILE", None
            yield name.upper(), value

    def _show_changes(self, changes: dict[str, str | None]) -> None:
        _say("\nChanges:")
        for upper, value in changes.items():
            name = upper.lower()
            if value is None:
                _say(f"  {upper}: removed")
                continue
            new = value if name == "dkim_keys" else config.shown(self._with(name, value), name)
            old = config.shown(self.before, name) if self.is_set(name) else ""
            _say(f"  {upper}={new}{f'   (was {old})' if old and old != new else ''}")

    def _with(self, name: str, value: str) -> Settings:
        return settings.load(self.path, **{name: value})


def _title(check: Check) -> str:
    return str(getattr(check, "__name__", "")).strip("_").replace("_", " ")


def _login_url(loaded: Settings, name: str) -> LoginURL:
    value: Any = getattr(loaded, name)
    return parse_login_url(value if isinstance(value, str) else value.get_secret_value())


# --- After .env is written ----------------------------------------------------------------------


def _prepare(dialogue: Dialogue, test_mail: str | None, unit_folder: Path | None) -> None:
    """Migrate the database, print the DNS records, send a test mail, write units, and sum up."""
    loaded = settings.load(dialogue.path)
    try:
        database.upgrade()
        _say("The database is migrated.")
    except (PaperboyError, SQLAlchemyError) as error:
        reason = str(error) if isinstance(error, PaperboyError) else type(error).__name__
        complain(f"the database is not migrated ({reason}); later: paperboy db upgrade")
    installation = Installation(loaded, datetime.now(UTC))
    _print_records(installation)
    _send_test_mail(dialogue, installation, test_mail)
    _write_units(dialogue, loaded, unit_folder)
    installation.services.engine.dispose()
    _sum_up(dialogue.path.parent)


def _print_records(installation: Installation) -> None:
    if not installation.is_public:
        return
    _say("\nDNS records to publish, if they are not there yet:\n")
    try:
        for record in dns.wanted_records(installation):
            _say(record.line)
    except PaperboyError as error:
        complain(f"the other records: {error}")
    _say("\nIf your provider signs, it also shows you the DKIM record of your domain.")


def _send_test_mail(dialogue: Dialogue, installation: Installation, address: str | None) -> None:
    if address is None:
        label = "\nSend a sample digest to (empty: to nobody)"
        address = "" if dialogue.yes else dialogue.prompt(label, optional=True)
    if not address:
        return
    try:
        body = wire_sample(installation, DeliveryKind.DIGEST, address)
        built = installation.services
        send_once(built.transport, built.sender.address, address, body)
        _say(f"The mail server has taken a sample digest to {address}; its papers are invented.")
    except PaperboyError as error:
        complain(f"the sample digest was not sent: {error}")


def _write_units(dialogue: Dialogue, loaded: Settings, folder: Path | None) -> None:
    if folder is None and (dialogue.yes or not units.has_systemd()):
        return
    if folder is None:
        if not typer.confirm("Write systemd units?", default=True):
            return
        folder = dialogue.path.parent / "var" / "systemd"
    units.write(folder, dialogue.path.parent, loaded.database_url)
    if os.geteuid() == 0:
        _say("\nThe units run everything as root: better run this as a user of its own.")
    if other := units.installed_for(dialogue.path.parent):
        _say(
            f"\nThe units are in {folder}. Units of these names are installed for {other}: rename "
            "the new ones, and give this list another port and another Redis database."
        )
        return
    _say(f"\nThe units are in {folder}. Install them with:\n")
    for command in units.install_commands(folder):
        _say(f"    {command}")


def _sum_up(folder: Path) -> None:
    """Print the next commands, and what the doctor finds wrong."""
    program = Path(sys.executable).parent / "paperboy"
    _say(f"\nNext, in {folder}:\n")
    for command in ("ingest", "subscribers add YOU@EXAMPLE.ORG --topic trending", "doctor"):
        _say(f"    {program} {command}")
    _say("\nThe doctor now:\n")
    found = list(doctor_cli.examined(datetime.now(UTC)))
    doctor_cli.show_findings(finding for finding in found if finding.ok is False)
    doctor_cli.sum_up(found)
