"""SMTP AUTH: by password or by token, with the mechanisms that servers offer and refuse."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from pipeline import settings
from pipeline.doctor.finding import Installation
from pipeline.errors import RefusedError, SettingsError, TransportError
from pipeline.settings import SMTPServer
from pipeline.smtp import Security, SMTPTransport
from pipeline.smtp.oauth import Endpoint, Token, Tokens, run, tokens_of
from tests.support.factories import NOW

HANG_UP = "<hang up>"


@dataclass
class LoginServer:
    """A mail server that offers `auth` and returns the listed replies per mechanism, then 235."""

    auth: str = "AUTH PLAIN LOGIN"
    answers: dict[str, list[str]] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)  # "connection mechanism"
    said: list[str] = field(default_factory=list)  # decoded
    connections: int = 0
    port: int = 0

    def talk(self, sock: socket.socket) -> None:
        self.connections += 1
        with sock, sock.makefile("rwb") as file:

            def say(line: str) -> None:
                if line == HANG_UP:
                    raise OSError
                file.write(f"{line}\r\n".encode())
                file.flush()

            say("220 sink")
            while line := file.readline().decode().strip():
                verb, _, rest = line.partition(" ")
                if verb == "EHLO":
                    say(f"250-sink\r\n250 {self.auth}" if self.auth else "250 sink")
                elif verb == "AUTH":
                    self.log_in(rest, say, file)
                elif verb == "QUIT":
                    say("221 bye")
                    return

    def log_in(self, rest: str, say, file) -> None:
        mechanism, _, initial = rest.partition(" ")
        self.tried.append(f"{self.connections} {mechanism}")
        if initial:
            self.said.append(base64.b64decode(initial).decode())
        scripted = self.answers.get(mechanism)
        answer = scripted.pop(0) if scripted else "235 in"
        if answer.startswith("334"):
            say(answer)
            self.said.append(file.readline().decode().strip())
            answer = scripted.pop(0) if scripted else "235 in"
        elif mechanism == "LOGIN" and answer.startswith("235"):
            for challenge in ("VXNlcm5hbWU6", "UGFzc3dvcmQ6"):
                say(f"334 {challenge}")
                self.said.append(base64.b64decode(file.readline()).decode())
        for part in answer.split("|"):
            say(part)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError):
                self.talk(sock)


@contextlib.contextmanager
def serving(**script) -> Iterator[LoginServer]:
    server = LoginServer(**script)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def transport(server: LoginServer, tokens: Tokens | None = None) -> SMTPTransport:
    known = SMTPServer("127.0.0.1", server.port, "ada", "secret", implicit_tls=False)
    return SMTPTransport(known, Security.OFF, tokens=tokens)


# --- By password --------------------------------------------------------------------------------


@pytest.mark.parametrize("offer", ["AUTH PLAIN LOGIN", "AUTH=LOGIN PLAIN", "AUTH=PLAIN LOGIN"])
@pytest.mark.parametrize(
    "refusal", ["535 5.7.3 Authentication unsuccessful", "504 5.7.4 Unknown", "553 no"]
)
def test_login_mechanism_is_tried_after_plain_is_refused(offer, refusal):
    with serving(auth=offer, answers={"PLAIN": [refusal]}) as server:
        transport(server).open().close()

    assert server.tried == ["1 PLAIN", "1 LOGIN"]
    assert server.said[-2:] == ["ada", "secret"]


def test_successful_mechanism_is_tried_first_next_time():
    with serving(answers={"PLAIN": ["535 no"]}) as server:
        mine = transport(server)
        mine.open().close()
        mine.open().close()

    assert server.tried == ["1 PLAIN", "1 LOGIN", "2 LOGIN"]


@pytest.mark.parametrize("refusal", ["535 5.7.8 no|<hang up>", "535 no|421 bye", HANG_UP])
def test_disconnect_on_a_refused_login_retries_login_on_a_new_connection(refusal):
    with serving(answers={"PLAIN": [refusal]}) as server:
        transport(server).open().close()

    assert server.tried[-1] == "2 LOGIN"
    assert server.connections == 2


def test_login_refused_by_both_mechanisms_raises_with_the_last_reply():
    refused = {"PLAIN": ["504 5.5.4 what"], "LOGIN": ["535 5.7.8 Bad credentials"]}
    with serving(answers=refused) as server, pytest.raises(RefusedError, match="Bad credentials"):
        transport(server).open()

    assert server.tried == ["1 PLAIN", "1 LOGIN"]


@pytest.mark.parametrize("reply", ["454 4.7.0 Temporary", "421 4.3.0 Busy"])
def test_temporarily_refused_login_does_not_raise_refused_error(reply):
    with (
        serving(answers={"PLAIN": [reply]}) as server,
        pytest.raises(TransportError, match=reply[:3]) as raised,
    ):
        transport(server).open()

    assert not isinstance(raised.value, RefusedError)
    assert server.tried == ["1 PLAIN"]


def test_disconnect_at_every_login_does_not_raise_refused_error():
    with (
        serving(answers={"PLAIN": [HANG_UP] * 3, "LOGIN": [HANG_UP] * 3}) as server,
        pytest.raises(TransportError) as raised,
    ):
        transport(server).open()

    assert not isinstance(raised.value, RefusedError)
    assert server.connections <= 3


@pytest.mark.parametrize(
    ("offer", "words"),
    [
        ("AUTH CRAM-MD5 DIGEST-MD5", "but CRAM-MD5 DIGEST-MD5"),
        ("AUTH XOAUTH2", "SMTP_OAUTH_COMMAND"),
        ("AUTH=OAUTHBEARER", "SMTP_OAUTH_REFRESH_TOKEN"),
        ("", "encrypted, or on port 587"),
    ],
)
def test_unsupported_auth_offer_raises_a_clear_error(offer, words):
    with serving(auth=offer) as server, pytest.raises(TransportError, match=words):
        transport(server).open()


# --- By token -----------------------------------------------------------------------------------

OAUTH = "AUTH LOGIN PLAIN XOAUTH2"


def given(*texts: str) -> Tokens:
    left = list(texts)
    return Tokens(lambda: settings_token(left.pop(0)))


def settings_token(text: str):
    from pipeline.smtp.oauth import Token

    return Token(text)


def test_xoauth2_token_has_the_format_of_gmail_and_microsoft():
    with serving(auth=OAUTH) as server:
        transport(server, given("t1")).open().close()

    assert server.said == ["user=ada\1auth=Bearer t1\1\1"]


def test_oauthbearer_is_used_when_xoauth2_is_not_offered():
    with serving(auth="AUTH OAUTHBEARER") as server:
        transport(server, given("t1")).open().close()

    assert server.said == [f"n,a=ada,\1host=127.0.0.1\1port={server.port}\1auth=Bearer t1\1\1"]


def test_refused_token_is_replaced_once_after_an_empty_response():
    challenge = base64.b64encode(b'{"status":"401","schemes":"bearer"}').decode()
    refused = [f"334 {challenge}", "535 5.7.8 not accepted"]
    with serving(auth=OAUTH, answers={"XOAUTH2": refused}) as server:
        transport(server, given("old", "new")).open().close()

    assert server.said == ["user=ada\1auth=Bearer old\1\1", "", "user=ada\1auth=Bearer new\1\1"]
    assert server.connections == 2


def test_token_refused_twice_raises_with_the_server_error():
    challenge = base64.b64encode(b'{"status":"401"}').decode()
    refused = [f"334 {challenge}", "535 no"] * 2
    with (
        serving(auth=OAUTH, answers={"XOAUTH2": refused}) as server,
        pytest.raises(RefusedError, match=r'535 no .*"status":"401"'),
    ):
        transport(server, given("old", "new")).open()


def test_token_is_shared_by_connections_until_refused():
    asked = []
    tokens = Tokens(lambda: asked.append(1) or settings_token(f"t{len(asked)}"))
    with serving(auth=OAUTH) as server:
        mine = transport(server, tokens)
        for _ in range(3):
            mine.open().close()

    assert len(asked) == 1
    assert tokens.get(refused="t1") == "t2"
    assert tokens.get(refused="t1") == "t2", "another connection has replaced it already"


@pytest.mark.parametrize(
    ("expires_in", "seconds", "asked"),
    [(100, 39, 1), (100, 40, 2), (60, 0, 2), (0, 0, 2), (None, 1_739, 1), (None, 1_740, 2)],
)
def test_a_token_is_used_until_a_minute_before_it_expires(monkeypatch, expires_in, seconds, asked):
    clock = [1_000.0]
    monkeypatch.setattr("pipeline.smtp.oauth.time.monotonic", lambda: clock[0])
    first = Token("t1") if expires_in is None else Token("t1", expires_in)
    given = iter([first, Token("t2", 3600)])
    tokens = Tokens(lambda: next(given))
    assert tokens.get() == "t1"
    clock[0] += seconds

    assert tokens.get() == f"t{asked}"
    assert "t1" not in repr(tokens)
    assert "t1" not in repr(Token("t1"))


@pytest.mark.parametrize("text", ["", "t\u00f6ken", "two\nlines", "nul\0"])
def test_token_with_invalid_characters_is_rejected(text):
    with pytest.raises(RefusedError, match="is none"):
        Tokens(lambda: Token(text)).get()


# --- Sources of tokens --------------------------------------------------------------------------


def test_token_command_prints_plain_text_or_json(tmp_path):
    assert run(f"{sys.executable} -c 'print(\"abc\")'").text == "abc"
    answer = tmp_path / "answer"
    answer.write_text(json.dumps({"access_token": "def", "expires_in": 100}))
    assert (run(f"cat {answer}").text, run(f"cat {answer}").expires_in) == ("def", 100)


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        ("/nowhere/tokens s3cret", RefusedError, "No such file"),
        ("false s3cret", TransportError, "status 1"),
        ("true s3cret", RefusedError, "did not print"),
        ("echo two s3cret", RefusedError, "did not print"),
        ("echo 's3cret", RefusedError, "malformed"),
    ],
)
def test_token_command_error_does_not_contain_its_output(command, error, words):
    with pytest.raises(error, match=words) as raised:
        run(command)

    assert "s3cret" not in str(raised.value)


@dataclass
class Answers:
    """A token endpoint on loopback."""

    said: list[tuple[int, object]]
    requests: list[dict[str, list[str]]] = field(default_factory=list)
    url: str = ""


@contextlib.contextmanager
def token_endpoint(*said: tuple[int, object]) -> Iterator[Answers]:
    answers = Answers(list(said))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            answers.requests.append(parse_qs(body))
            status, content = answers.said.pop(0)
            octets = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                octets = gzip.compress(octets)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(octets)))
            self.end_headers()
            self.wfile.write(octets)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    answers.url = f"http://127.0.0.1:{server.server_port}/token"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_refresh_token_is_exchanged_and_replaced_by_a_newer_one():
    with token_endpoint(
        (200, {"access_token": "a1", "expires_in": 3600, "refresh_token": "r2"}),
        (200, {"access_token": "a2", "expires_in": "3600"}),
    ) as answers:
        endpoint = Endpoint(answers.url, "client", "hush", "r1")
        first, second = endpoint.refresh(), endpoint.refresh()

    assert (first.text, first.expires_in, second.text) == ("a1", 3600, "a2")
    assert answers.requests[0] == {
        "grant_type": ["refresh_token"],
        "client_id": ["client"],
        "client_secret": ["hush"],
        "refresh_token": ["r1"],
    }
    assert answers.requests[1]["refresh_token"] == ["r2"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        ((400, {"error": "invalid_grant", "error_description": "gone"}), RefusedError, "gone"),
        ((401, "no"), RefusedError, "401"),
        ((503, "later"), TransportError, "503"),
        ((302, ""), TransportError, "302"),
        ((200, "<html>"), TransportError, "JSON"),
        ((200, []), TransportError, "JSON"),
        ((200, {"token": "x"}), RefusedError, "no access_token"),
        ((200, {"access_token": ""}), RefusedError, "no access_token"),
        ((200, {"access_token": 7}), RefusedError, "no access_token"),
        ((200, {"access_token": "x" * 16_385}), RefusedError, "no access_token"),
        ((403, ["no"]), RefusedError, "answers 403$"),
        ((400, {"error": 7, "error_description": "e" * 300}), RefusedError, "400: e{200}$"),
        ((201, {"access_token": "x"}), TransportError, "201"),
        ((404, {"error": "gone"}), TransportError, "404: gone"),
    ],
)
def test_token_endpoint_error_does_not_contain_secrets(answer, error, words):
    with token_endpoint(answer) as answers, pytest.raises(error, match=words) as raised:
        Endpoint(answers.url, "client", "hush", "r3fresh").refresh()

    assert type(raised.value) is error
    assert "r3fresh" not in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({"access_token": "x" * 16_384}, 1_800),
        ({"access_token": "x", "expires_in": 0}, 0),
        ({"access_token": "x", "expires_in": "later"}, 1_800),
        ({"access_token": "x", "expires_in": [1]}, 1_800),
        ({"access_token": "x", "refresh_token": 7}, 1_800),
        ({"access_token": "x", "refresh_token": ""}, 1_800),
    ],
)
def test_unusual_token_responses_are_accepted(answer, seconds):
    with token_endpoint((200, answer)) as answers:
        endpoint = Endpoint(answers.url, "client", "", "r3fresh")
        found = endpoint.refresh()

    assert (found.text, found.expires_in) == (answer["access_token"], seconds)
    assert endpoint.refresh_token == "r3fresh"
    assert "client_secret" not in answers.requests[0]
    assert "r3fresh" not in repr(endpoint)


def test_settings_select_the_token_source(tmp_path):
    def given_(**which):
        return tokens_of(settings.load(None, smtp_url="smtp://ada@mail.example", **which))

    assert given_() is None
    said = given_(smtp_oauth_command="echo t1")
    assert said.get() == "t1"
    with token_endpoint((200, {"access_token": "t2"})) as answers:
        named = given_(
            smtp_oauth_token_url=answers.url, smtp_oauth_client_id="client",
            smtp_oauth_client_secret="hush", smtp_oauth_refresh_token="r1",
        )  # fmt: skip
        assert named.get() == "t2"
    assert "hush" not in repr(Endpoint(answers.url, "client", "hush", "r1"))
    assert answers.requests[0]["client_secret"] == ["hush"]
    assert answers.requests[0]["refresh_token"] == ["r1"]


def test_token_command_output_is_limited_to_16384_characters(tmp_path):
    printed = tmp_path / "printed"
    printed.write_text("x" * 16_384)
    assert len(run(f"cat {printed}").text) == 16_384
    printed.write_text("x" * 16_385)
    with pytest.raises(RefusedError, match="did not print"):
        run(f"cat {printed}")


def test_unreachable_token_endpoint_raises_a_transport_error():
    with token_endpoint() as answers:
        pass

    with pytest.raises(TransportError, match="cannot be reached"):
        Endpoint(answers.url, "client", None, "r1").refresh()


# --- Settings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"smtp_oauth_command": "x", "smtp_oauth_refresh_token": "y"}, "set only one"),
        ({"smtp_oauth_refresh_token": "y"}, "SMTP_OAUTH_TOKEN_URL: needed"),
        ({"smtp_oauth_token_url": "http://oauth.example/token"}, "SMTP_OAUTH_TOKEN_URL: must"),
        ({"smtp_oauth_command": "x", "smtp_url": "smtp://mail.example"}, "must name the user"),
    ],
)
def test_inconsistent_login_settings_are_rejected(given_, words):
    with pytest.raises(SettingsError, match=words):
        settings.load(None, **{"smtp_url": "smtp://ada@mail.example", **given_})


def test_doctor_logs_in_with_the_oauth_token():
    with serving(auth="AUTH XOAUTH2") as server:
        loaded = settings.load(
            None,
            smtp_url=f"smtp://ada@127.0.0.1:{server.port}",
            smtp_oauth_command="echo t1",
        )
        found = Installation(loaded, NOW).mail_server

    assert not isinstance(found, str)
    assert server.said == ["user=ada\1auth=Bearer t1\1\1"]
