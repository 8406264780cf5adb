"""`paperboy init` tests each answer, writes `.env` in one step, and prints no password."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from redis import Redis

from pipeline import settings
from pipeline.cli import init, units
from pipeline.dkim.keys import read_keys
from pipeline.doctor import Installation
from pipeline.setting_values import parse_login_url
from pipeline.smtp.providers import PROVIDERS, provider_of
from pipeline.tasks import QUEUES
from tests.support.running import Command, wait_until
from tests.support.sinks import Sink, open_sink

ROOT = Path(__file__).resolve().parents[1]
UNITS = ROOT / "deploy" / "systemd"
FEATURES = ("8BITMIME", "AUTH PLAIN LOGIN", "SIZE 1000000")
PASSWORD = "canary/#pass'word"
OTHER = "10"  # "another server" in the list of providers

subprocess_test = pytest.mark.full


@dataclass(frozen=True)
class Terminal:
    """`paperboy init` in an empty folder, with the lines of a terminal on its stdin."""

    folder: Path
    redis: str
    sink: Sink

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    @property
    def settings(self) -> settings.Settings:
        return settings.load(self.env_file)

    def start(self, *options: str) -> subprocess.Popen[str]:
        return Command(self.folder).start("init", *options, stdin=subprocess.PIPE)

    def run(self, *lines: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
        """Return the exit code and all output."""
        with self.start(*options) as process:
            out, err = process.communicate("\n".join(lines) + "\n", timeout=90)
        assert PASSWORD not in out + err
        assert parse_login_url(self.redis).password not in out + err  # type: ignore[operator]
        return process.returncode, out + err

    def answers(self, password: str = PASSWORD, again: str = "") -> list[str]:
        """Return a valid answer to each question, down to the confirmation."""
        server = [OTHER, "127.0.0.1", str(self.sink.port), "ada", password]
        redis = parse_login_url(self.redis)
        return [
            "http://127.0.0.1:8000",
            "Papers <papers@localhost>",
            *server,
            *([again, *server[:-1], PASSWORD] if again else []),
            "Example Lab",
            "Lab #4, Ada's 1 Street",
            "sqlite",
            "data/paperboy.db",
            f"redis://{redis.host}:{redis.port}/0",
            redis.password or "",
            "n",  # no DKIM key
            "y",
        ]


@pytest.fixture
def terminal(tmp_path: Path, valkey: str) -> Iterator[Terminal]:
    folder = tmp_path / "list"
    folder.mkdir()
    (folder / ".env").touch(0o644)  # else that of this checkout is written
    with open_sink(features=FEATURES, logins={"ada": PASSWORD}) as sink:
        with Redis.from_url(valkey) as broker:  # other tests change it
            broker.config_set("maxmemory-policy", "noeviction")
        yield Terminal(folder, valkey, sink)


@subprocess_test
def test_answers_become_a_private_env_file_that_works(terminal: Terminal):
    code, said = terminal.run(*terminal.answers(), "ada@example.org")

    assert code == 0, said
    loaded = terminal.settings
    assert loaded.smtp.password == PASSWORD
    assert loaded.operator_address == "Lab #4, Ada's 1 Street"
    assert loaded.redis_url == terminal.redis
    assert terminal.env_file.stat().st_mode & 0o777 == 0o600
    assert "accepts the login of ada" in said
    assert "no keys are evicted" in said
    assert [mail.recipient for mail in terminal.sink.accepted] == ["ada@example.org"]
    assert b"Dense Retrieval" in terminal.sink.accepted[0].body
    assert re.search(r"\d+ passed, 0 failed", said)
    code, out, _ = Command(terminal.folder).run("subscribers", "list", "--json")
    assert (code, out) == (0, "")  # the database is migrated


@subprocess_test
def test_a_wrong_password_is_reported_and_can_be_entered_again(terminal: Terminal):
    code, said = terminal.run(*terminal.answers("wrong", again="y"), "")

    assert code == 0
    assert "535 5.7.8 Wrong login" in said
    assert "correct user and password in SMTP_URL" in said
    assert terminal.settings.smtp.password == PASSWORD


@subprocess_test
def test_a_second_run_keeps_answers_passwords_and_comments(terminal: Terminal):
    terminal.run(*terminal.answers(), "")
    before = terminal.env_file.read_text() + "# Ours\nMAX_PAPERS=4 # few\n"
    terminal.env_file.write_text(before)
    data = (terminal.folder / "data" / "paperboy.db").stat().st_ino
    enter = [""] * 20

    code, said = terminal.run(*enter[:6], "", *enter)

    assert code == 0, said
    assert "stays as it is" in said
    assert terminal.env_file.read_text() == before
    assert (terminal.folder / "data" / "paperboy.db").stat().st_ino == data
    assert list(terminal.folder.glob("**/*.db")) == [terminal.folder / "data" / "paperboy.db"]


@subprocess_test
def test_a_changed_answer_is_shown_and_refused(terminal: Terminal):
    terminal.run(*terminal.answers(), "")
    before = terminal.env_file.read_text()

    code, said = terminal.run(
        *["", "", "", "", "", "", "", "New Lab", "", "", "", "", "", "n", "n"],
    )

    assert code == 0, said
    assert "OPERATOR_NAME=New Lab   (was Example Lab)" in said
    assert "Nothing was changed." in said
    assert terminal.env_file.read_text() == before


@subprocess_test
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_at_a_prompt_leaves_the_old_file(terminal: Terminal, number: int):
    terminal.env_file.write_text("NOTE=Tea\n")

    with terminal.start() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(terminal.answers()[:-1]) + "\n")
        process.stdin.flush()
        said = ""
        said = _read_until(process.stdout.fileno(), "Write ", said)
        process.send_signal(number)
        process.wait(timeout=30)

    assert process.returncode != 0
    assert terminal.env_file.read_text() == "NOTE=Tea\n"
    assert {path.name for path in terminal.folder.iterdir()} == {".env", "data"}


@subprocess_test
def test_options_answer_everything(terminal: Terminal):
    url = f"smtp://ada:canary%2F%23pass%27word@127.0.0.1:{terminal.sink.port}"
    options = (
        *("--site-url", "http://127.0.0.1:8000", "--mail-from", "papers@localhost"),
        *("--smtp-url", "-", "--operator-name", "Lab", "--operator-address", "1 Street"),
        *("--redis-url", terminal.redis, "--dkim", "news2030a", "--units", "units", "--yes"),
    )

    code, said = terminal.run(url, options=options)

    assert code == 0, said
    assert terminal.settings.smtp.password == PASSWORD
    keys = terminal.settings.dkim_keys
    assert keys is not None
    assert [key.selector for key in read_keys(keys.get_secret_value())] == ["news2030a"]
    assert (terminal.folder / "dkim-news2030a.pem").stat().st_mode & 0o777 == 0o600
    assert (
        f"WorkingDirectory={terminal.folder}"
        in (terminal.folder / "units/paperboy-.service.d/common.conf").read_text()
    )


@subprocess_test
def test_yes_without_a_needed_setting_names_its_option(terminal: Terminal):
    code, said = terminal.run(options=("--yes", "--site-url", "https://papers.example.org"))

    assert code == 2
    assert "--yes needs --mail-from, --smtp-url, --operator-address" in said
    assert terminal.env_file.read_text() == ""


@subprocess_test
def test_a_terminal_does_not_show_the_password(terminal: Terminal):
    keyboard, screen = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline", "init", "--site-url", "http://127.0.0.1:8000"],
        cwd=terminal.folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=screen,
        stdout=screen,
        stderr=screen,
        start_new_session=True,
    ) as process:
        shown = ""
        for prompt, line in zip(PROMPTS, terminal.answers()[1:7], strict=True):
            shown = _read_until(keyboard, prompt, shown).partition(prompt)[2]
            os.write(keyboard, f"{line}\n".encode())
        shown = _read_until(keyboard, "accepts the login of ada", shown)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    os.close(keyboard)
    os.close(screen)

    assert PASSWORD not in shown
    assert terminal.env_file.read_text() == ""


PROMPTS = ("Sender", "Who sends your mail?", "Mail server", "Port", "User name", "Password: ")


def _read_until(terminal: int, words: str, shown: str) -> str:
    while words not in shown:
        assert select.select([terminal], [], [], 30)[0], shown
        shown += os.read(terminal, 4096).decode()
    return shown


@pytest.mark.parametrize("is_owner", [True, False])
def test_rights_in_postgresql_are_tested(postgresql_url, is_owner):
    url = postgresql_url
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("DROP ROLE IF EXISTS reader_only")
        conn.execute("CREATE ROLE reader_only LOGIN")
    if not is_owner:
        url = str(replace(parse_login_url(url), username="reader_only", password=None))
    installation = Installation(settings.load(None, database_url=url), datetime.now(UTC))

    found = {finding.check: finding for finding in init._database_rights(installation)}
    installation.services.engine.dispose()

    assert found["database"].ok
    assert found["database rights"].ok is is_owner


def test_a_secret_in_a_file_is_replaced_by_its_new_value(tmp_path, monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    (tmp_path / "redis").write_text("redis://127.0.0.1:1/0")
    path = tmp_path / ".env"
    path.write_text(f"REDIS_URL_FILE={tmp_path / 'redis'}\nNOTE=Tea\n")
    given = {"site_url": "http://127.0.0.1:8000", "mail_from": "papers@localhost",
             "smtp_url": "smtp://127.0.0.1:1025", "operator_address": "1 Street"}  # fmt: skip
    dialogue = init.Dialogue(path, given, yes=True)

    dialogue.settle("redis_url", lambda: "redis://127.0.0.1:2/0", ())

    assert dialogue.write(None)
    assert path.read_text() == "NOTE=Tea\nREDIS_URL=redis://127.0.0.1:2/0\n"


# --- The documents ------------------------------------------------------------------------------

NOBODY = 65_534


def _other_user() -> int | None:
    """Return an unprivileged user, if this one is root and Python is not in root's home."""
    python = Path(sys.executable)
    folders = {*python.parents, *python.resolve().parents, *ROOT.parents}
    is_open = all(folder.stat().st_mode & 0o001 for folder in folders)
    return NOBODY if os.geteuid() == 0 and is_open else None


@contextmanager
def _clean_copy() -> Iterator[Path]:
    """Yield a copy of the project with installed packages, owned by an unprivileged user."""
    with TemporaryDirectory() as name:
        copy = Path(name) / "paperboy"
        ignore = shutil.ignore_patterns(".git", ".venv", ".env", "var", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, copy, ignore=ignore)
        (copy / ".venv").mkdir()
        (copy / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        for stamp in (".python", ".installed"):
            (copy / ".venv" / stamp).touch()
        if _other_user():
            for path in (copy.parent, copy, *copy.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        yield copy


@subprocess_test
@pytest.mark.timeout(300)
def test_commands_of_the_install_page_lead_to_a_digest(terminal: Terminal):
    """The packages are those of this environment, and the papers are recorded ones."""
    page = (ROOT / "docs" / "install.md").read_text().partition("## From an empty machine")[2]
    commands = re.findall(r"^    ((?:make install|\.venv/bin/paperboy) ?.*)$", page, re.MULTILINE)
    samples = (f"--file pipeline/samples/{name}" for name in ("huggingface.json", "arxiv.jsonl"))
    user = _other_user()

    with _clean_copy() as copy:
        for command in commands:
            if command.endswith(" ingest"):
                command += " " + " ".join(samples)
            done = subprocess.run(
                shlex.split(command),
                cwd=copy,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(copy),
                    "PYTHONPATH": str(copy),
                    "PYTHONDONTWRITEBYTECODE": "1",
                },
                input="\n".join([*terminal.answers(), "", "", ""]),
                user=user,
                group=user,
                extra_groups=[] if user else None,
                umask=0o077,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"

    assert [command.split()[1] for command in commands] == [
        *("install", "init", "config", "ingest", "subscribers", "publish", "send", "doctor")
    ]
    assert [mail.recipient for mail in terminal.sink.accepted] == ["ada@example.org"]


@pytest.mark.parametrize("name", ["Caddyfile", "nginx.conf"])
def test_proxy_examples_of_the_documents_are_those_of_deploy(name):
    file = (ROOT / "deploy" / name).read_text()
    page = (ROOT / "docs" / "deploy.md").read_text().partition(f"[deploy/{name}]")[2]
    block = re.match(r".*?\n\n((?:    [^\n]*\n)+)", page, re.DOTALL)

    assert block is not None
    assert all(line.strip() in file for line in block[1].splitlines())
    assert "TRUSTED_PROXIES='127.0.0.1 ::1'" in file


# --- Providers ----------------------------------------------------------------------------------


def test_the_region_of_a_provider_is_not_part_of_its_identity():
    assert provider_of("email-smtp.us-east-2.amazonaws.com") == PROVIDERS[0]
    assert provider_of("mail.example.org") is None


def test_every_provider_is_documented():
    page = (ROOT / "docs" / "providers.md").read_text()

    for provider in PROVIDERS[:-1]:
        assert provider.host.replace("{region}", "eu-west-1") in page, provider.name


# --- Units --------------------------------------------------------------------------------------


@contextmanager
def _written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(settings, "INSTALLATION", ROOT)
    (folder / "data").mkdir()
    units.write(folder / "units", folder, f"sqlite:///{folder}/data/paperboy.db")
    yield folder / "units"


def test_units_are_filled_with_the_paths_of_the_installation(tmp_path, monkeypatch):
    with _written(tmp_path, monkeypatch) as folder:
        texts = [path.read_text() for path in folder.rglob("*.*") if path.is_file()]

    assert len(texts) == len([path for path in UNITS.rglob("*.*") if path.is_file()])
    assert not any("/srv/paperboy" in text or "/var/lib" in text for text in texts)
    assert any(f"ReadWritePaths={tmp_path}/data" in text for text in texts)


def test_units_for_a_home_directory_can_read_it(tmp_path, monkeypatch):
    home = Path("/") / "home" / "ada" / "paperboy"
    monkeypatch.setattr(settings, "INSTALLATION", ROOT)
    units.write(tmp_path, home, "postgresql://paperboy@localhost/paperboy")
    common = (tmp_path / "paperboy-.service.d" / "common.conf").read_text()

    assert "ProtectHome=read-only" in common
    assert "ReadWritePaths" not in common


@subprocess_test
@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd is installed")
def test_systemd_accepts_the_units(tmp_path, monkeypatch):
    with _written(tmp_path, monkeypatch) as folder:
        files = [str(path) for path in folder.glob("paperboy*.*") if path.is_file()]
        checked = _systemd_analyze("verify", *files, folder=folder)
        assert (checked.returncode, checked.stderr.strip()) == (0, "")
        rated = _systemd_analyze(
            "security", "--offline=true", "--threshold=25", str(folder / "paperboy-web.service"),
            folder=folder,
        )  # fmt: skip

    assert rated.returncode == 0, rated.stdout


def _systemd_analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:/usr/lib/systemd/system"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_units_start_one_worker_for_each_queue():
    for queue in QUEUES:
        unit = (UNITS / f"paperboy-{queue}.service").read_text()
        assert f"worker --queues {queue} --concurrency " in unit
        assert f"--hostname {queue}@%%h" in unit
    wanted = re.findall(r"^Wants=(.*)$", (UNITS / "paperboy.target").read_text(), re.MULTILINE)
    assert {f"paperboy-{queue}.service" for queue in QUEUES} <= set(wanted[0].split())


READY = {
    "web": "Serving on 127.0.0.1",
    "ingest": "ingest@",
    "edition": "edition@",
    "dispatch": "dispatch@",
    "beat": "",  # logs nothing at its start
}


@subprocess_test
@pytest.mark.parametrize("name", READY)
def test_command_of_each_unit_starts_and_stops(name, tmp_path, sqlite_url, valkey):
    """In a working directory that holds nothing but `.env`."""
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / ".env").write_text(f"DATABASE_URL={sqlite_url}\nREDIS_URL={valkey}\n")
    unit = (UNITS / f"paperboy-{name}.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    line = line.replace("%%", "%").replace("--port 8000", "--port 0")
    command = shlex.split(line)
    with Redis.from_url(valkey) as broker:
        broker.flushall()

    with subprocess.Popen(
        [str(Path(sys.executable).parent / Path(command[0]).name), *command[1:]],
        cwd=tmp_path / "list",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
             "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        said = ""
        if name == "beat":
            with Redis.from_url(valkey) as broker:
                wait_until(lambda: bool(broker.exists("dispatch")))
        else:
            said = _read_until(process.stdout.fileno(), READY[name], "")
        if name in QUEUES:
            said = _read_until(process.stdout.fileno(), " ready", said)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)

    assert process.returncode == 0, said + rest.decode()


@subprocess_test
@pytest.mark.skipif(sys.platform != "linux", reason="a rule of the Linux kernel")
def test_sending_works_without_writable_and_executable_memory(tmp_path):
    """As under MemoryDenyWriteExecute: numpy, the templates and the signatures need none."""
    program = (
        "import ctypes, os, sys\n"
        "if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, Linux 6.3\n"
        "    sys.exit(77)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'pipeline', 'demo'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    if done.returncode == 77:
        pytest.skip("the kernel does not know PR_SET_MDWE")
    assert done.returncode == 0, done.stderr
