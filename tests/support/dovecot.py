"""A real IMAP server on loopback: Dovecot, with its own configuration and folder."""

from __future__ import annotations

import contextlib
import grp
import imaplib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.support.site import now

PASSWORD = "p@ss/word"
FAR_AWAY = "127.1"  # resolves to this machine, but is not recognised as loopback

_numbers = itertools.count(1)

CONFIGURATION = """\
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
protocols = imap
listen = 127.0.0.1
ssl = yes
ssl_cert = <{folder}/server.pem
ssl_key = <{folder}/key.pem
disable_plaintext_auth = no
mail_location = maildir:{folder}/mail/%u
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {group}
first_valid_uid = 1
auth_username_chars =
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {folder}/passwords
}}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={user} gid={group} home={folder}/home
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {port}
  }}
  inet_listener imaps {{
    port = {tls_port}
  }}
}}
service anvil {{
  chroot =
}}
namespace inbox {{
  inbox = yes
  prefix = {prefix}
  separator = .
}}
protocol imap {{
  imap_capability = {capability}
}}
"""


@dataclass(frozen=True, slots=True)
class Dovecot:
    """A running server and one account on it; the server accepts any name as an account."""

    folder: Path
    port: int
    tls_port: int
    user: str = "bounces"
    password: str = PASSWORD
    passwords: tuple[str, ...] = ()

    def account(self) -> Dovecot:
        """Return an empty account for a single test."""
        return replace(self, user=f"bounces{next(_numbers)}")

    def guarded(self, password: str) -> Dovecot:
        """Return the account with this password, one of `passwords`; its name needs quoting."""
        number = self.passwords.index(password)
        return replace(self, user=f"ada döe {number}", password=password)

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    def url(
        self,
        scheme: str = "imap",
        *,
        host: str = "127.0.0.1",
        password: str = "",
        box: str = "",
    ) -> str:
        password = password or self.password
        port = self.port if scheme == "imap" else self.tls_port
        user = quote(self.user, safe="")
        return f"{scheme}://{user}:{quote(password, safe='')}@{host}:{port}/{box}"

    def deliver(self, *mails: bytes, box: str = "INBOX") -> None:
        with self._client() as imap:
            for mail in mails:
                imap.append(box, "", None, mail)

    def holds(self, box: str = "INBOX") -> list[tuple[bytes, set[str]]]:
        """Return the mails of a folder with their flags, oldest first; `[]` if there is none."""
        with self._client() as imap:
            if imap.select(f'"{box}"', readonly=True)[0] != "OK":
                return []
            found = []
            for uid in imap.uid("SEARCH", "ALL")[1][0].split():
                answer = imap.uid("FETCH", uid.decode(), "(FLAGS BODY.PEEK[])")[1]
                flags = {flag.decode() for flag in imaplib.ParseFlags(answer[0][0])}
                found.append((answer[0][1], flags - {r"\Recent"}))
            return found

    @contextlib.contextmanager
    def _client(self) -> Iterator[imaplib.IMAP4]:
        imap = imaplib.IMAP4("127.0.0.1", self.port, timeout=10)
        account = f"\0{self.user}\0{self.password}".encode()
        imap.authenticate("PLAIN", lambda _: account)
        yield imap
        imap.logout()


def program() -> str | None:
    return shutil.which("dovecot", path=f"{os.environ['PATH']}:/usr/sbin")


@contextlib.contextmanager
def open_dovecot(
    prefix: str = "", *, capability: str = "", passwords: tuple[str, ...] = ()
) -> Iterator[Dovecot]:
    """Start Dovecot with the namespace `prefix`; stop it and delete its folder at the end.

    `capability` replaces the capabilities that it announces, unless it is empty. `passwords` belong
    to accounts that accept no other password, see `Dovecot.guarded`.
    """
    folder = Path(tempfile.mkdtemp(prefix="paperboy-dovecot-"))
    try:
        server = Dovecot(folder, _free_port(), _free_port(), passwords=passwords)
        _write_files(server, prefix, capability)
        with _running(server):
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(server: Dovecot) -> Iterator[None]:
    command = [program() or "dovecot", "-F", "-c", str(server.folder / "dovecot.conf")]
    with (server.folder / "out").open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        _wait_for(server, process)
        yield
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(server: Dovecot, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            return
        time.sleep(0.05)
    logs = [server.folder / name for name in ("out", "log")]
    raise AssertionError("\n".join(log.read_text() for log in logs if log.exists()))


def _write_files(server: Dovecot, prefix: str, capability: str) -> None:
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    group = grp.getgrgid(owner.pw_gid).gr_name
    server.folder.chmod(0o755)
    users = (f"ada döe {n}:{{PLAIN}}{p}::::::\n" for n, p in enumerate(server.passwords))
    (server.folder / "passwords").write_text("".join(users))
    for name in ("mail", "home", "run", "state"):
        (server.folder / name).mkdir(mode=0o755)
    for name in ("mail", "home"):
        os.chown(server.folder / name, owner.pw_uid, owner.pw_gid)
    _write_certificate(server.folder)
    configuration = CONFIGURATION.format(
        folder=server.folder,
        port=server.port,
        tls_port=server.tls_port,
        user=owner.pw_name,
        group=group,
        prefix=prefix,
        capability=capability,
        password=PASSWORD,
    )
    (server.folder / "dovecot.conf").write_text(configuration)


def _write_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName(FAR_AWAY)]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now() - timedelta(days=1))
        .not_valid_after(now() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
    )
    (folder / "server.pem").write_bytes(made.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
