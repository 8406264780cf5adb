"""Fill the systemd units of deploy/systemd with the user and the paths of an installation."""

from __future__ import annotations

import os
import pwd
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from pipeline import settings
from pipeline.errors import PaperboyError
from pipeline.storage import sqlite_file

# Stand in deploy/systemd for the program, the directory of .env, the directory of the data, the
# user, and the protection of /home.
BIN: Final = "/srv/paperboy/.venv/bin/"
FOLDER: Final = "/srv/paperboy"
DATA: Final = "ReadWritePaths=/var/lib/paperboy"
USER: Final = "User=paperboy"
NO_HOME: Final = "ProtectHome=true"
INSTALLED: Final = Path("/etc/systemd/system")
HOMES: Final = ("/home", "/root", "/run/user")


def has_systemd() -> bool:
    """Return whether this machine is run by systemd and the units are part of the installation."""
    return Path("/run/systemd/system").is_dir() and _source() is not None


def write(folder: Path, working_directory: Path, database_url: str) -> None:
    """Write the units to `folder`, replacing those there; raise PaperboyError if it fails."""
    source = _source()
    if source is None:
        raise PaperboyError("the units are in deploy/systemd of the repository, which is not here")
    try:
        for unit in sorted(source.rglob("*.*")):
            if unit.is_file():
                target = folder / unit.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(_filled(unit.read_text(), working_directory, database_url))
    except OSError as error:
        raise PaperboyError(f"{folder}: {error.strerror}") from error


def install_commands(folder: Path) -> list[str]:
    """Return the commands that install and start the units; they need root."""
    return [
        f"sudo cp -r {shlex.quote(str(folder.absolute()))}/. /etc/systemd/system/",
        "sudo systemctl daemon-reload",
        "sudo systemctl enable --now paperboy.target",
    ]


def installed_for(folder: Path) -> str | None:
    """Return the other directory that installed units of these names belong to, if there is one."""
    with suppress(OSError):
        for line in (INSTALLED / "paperboy-.service.d" / "common.conf").read_text().splitlines():
            name, _, value = line.partition("=")
            if name == "WorkingDirectory" and value != _escaped(folder):
                return value
    return None


def user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _source() -> Path | None:
    source = settings.INSTALLATION and settings.INSTALLATION / "deploy" / "systemd"
    return source if source and source.is_dir() else None


def _filled(unit: str, folder: Path, database_url: str) -> str:
    program = Path(sys.executable).parent
    file = sqlite_file.path_of(make_url(database_url)) if "sqlite" in database_url else None
    data = f"ReadWritePaths={_escaped(file.resolve().parent)}" if file else ""
    places = [folder, program, Path(sys.base_prefix), *([file] if file else [])]
    is_in_home = any(str(place.resolve()).startswith(HOMES) for place in places)
    for old, new in (
        (BIN, f"{_escaped(program)}/"),
        (f"WorkingDirectory={FOLDER}", f"WorkingDirectory={_escaped(folder)}"),
        (DATA, data),
        (USER, f"User={user_name(os.geteuid())}"),
        (NO_HOME, "ProtectHome=read-only" if is_in_home else NO_HOME),
    ):
        unit = unit.replace(old, new)
    return unit


def _escaped(path: Path) -> str:
    """Return a path as systemd reads it: % doubled, and a space as an escape sequence."""
    return str(path).replace("%", "%%").replace(" ", "\\x20")
