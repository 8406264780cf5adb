"""`.env` is parsed as intended, or the line is reported; unknown names are reported, too."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import setting_files, settings
from pipeline.errors import SettingsError
from pipeline.setting_files import duplicates, misnomers, read, values
from pipeline.settings import Settings

NAMES = {name.upper() for name in Settings.model_fields} | {"SECRET_KEY_FILE"}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def written(tmp_path):
    """Return a function that writes `.env` and returns its path."""

    def written(content: str | bytes) -> Path:
        path = tmp_path / ".env"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return written


@pytest.mark.parametrize(
    "content",
    [
        "NOTE=Tea\n",
        "NOTE=Tea   \r\nMAX_PAPERS=5\r\n",
        "\ufeffNOTE=Tea\n",
        "export NOTE=Tea\n",
        "note = 'Tea'\n",
        'NOTE="Tea" # said Ada\n',
        "\n\n# NOTE=Coffee\nNOTE=Tea",
        "NOTE=\nNOTE=Tea\n",
    ],
)
def test_common_env_file_formats_are_accepted(written, content):
    assert settings.load(written(content)).note == "Tea"


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("NOTE='Room #4, p${x} $HOME'", "Room #4, p${x} $HOME"),
        ("NOTE=p$x", "p$x"),
        ("NOTE=#4", "#4"),
        ("NOTE=4#4", "4#4"),
        ("NOTE=''", ""),
        ("NOTE", ""),
        ("NOTE= # nothing", ""),
    ],
)
def test_value_is_taken_literally(written, monkeypatch, line, meant):
    monkeypatch.setenv("x", "expanded")

    assert settings.load(written(line)).note == meant


def test_a_password_is_not_expanded(written, monkeypatch):
    monkeypatch.setenv("x", "expanded")
    path = written("SMTP_URL='smtp://ada:p${x}#@mail.example'")

    assert settings.load(path).smtp.password == "p${x}#"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("MAX_PAPERS=5\nOPERATOR_ADDRESS=1 Example Street #4, Town\n", 2),
        ("\n\nOPERATOR_ADDRESS=1 Example Street # 4, Town", 3),
        ("SMTP_URL=smtp://ada:Zk9 #w@mail.example", 1),
        ("SECRET_KEY=Zk9\t#w", 1),
        ("SMTP_URL=smtp://ada:Zk9${x}@mail.example", 1),
        ('SECRET_KEY="Zk9', 1),
        ("MAX_PAPERS=5\r\nSECRET_KEY='Zk9\r\n", 2),
        ('SECRET_KEY="Zk9" Zk9', 1),
        ("SITE_URL: https://Zk9.example", 1),
        (b"# caf\xc3\xa9\nNOTE=caf\xe9 Zk9\n", 2),
        (b"\xff\xfeN\x00O\x00T\x00E\x00=\x00Z\x00", 1),
    ],
)
def test_ambiguous_line_is_rejected_with_its_number_but_not_its_text(written, content, line):
    with pytest.raises(SettingsError, match=f", line {line}: ") as raised:
        settings.load(written(content))

    assert "Zk9" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_comment_after_an_unquoted_number_is_ignored(written):
    assert settings.load(written("MAX_PAPERS=5 # few\nSOURCES=arxiv # only")).max_papers == 5


def test_lines_of_other_programs_are_ignored(written):
    """Docker Compose reads the same file, and may expand variables in its own values."""
    path = written("POSTGRES_PASSWORD=${DB_PASSWORD} # from elsewhere\nNOTE=Tea")

    assert settings.load(path).note == "Tea"


def test_unreadable_file_is_rejected_with_the_reason(written, monkeypatch):
    path = written("NOTE=Tea")
    monkeypatch.setattr(Path, "read_bytes", _forbidden)

    with pytest.raises(SettingsError, match=r"\.env: cannot be read: Permission denied"):
        settings.load(path)


def _forbidden(_path: Path) -> bytes:
    raise PermissionError(13, "Permission denied")


# --- Unknown names ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("OPERATOR_ADRESS", "OPERATOR_ADDRESS"),
        ("SITEURL", "SITE_URL"),
        ("MAIL-FROM", "MAIL_FROM"),
        ("SMTP_PASSWORD", "SMTP_URL"),
        ("BASE_URL", "SITE_URL"),
        ("PAPERBOY_SITE_URL", "SITE_URL"),
        ("SITE_URL_FILE", "SITE_URL"),
        ("DKIM_KEY", "DKIM_KEYS"),
        ("SECRETKEY", "SECRET_KEY"),
    ],
)
def test_mistyped_name_in_the_file_is_reported_with_a_suggestion(written, name, meant):
    [found] = misnomers(read(written(f"NOTE=Tea\n{name}=x"), NAMES), {}, NAMES)

    assert found.text == f"{name} (.env, line 2) is not a setting; did you mean {meant}?"
    assert found.is_sure


def test_unknown_name_in_the_file_is_reported_as_unsure(written):
    [found] = misnomers(read(written("GREETING=x"), NAMES), {}, NAMES)

    assert found.text == "GREETING (.env, line 1) is not a setting"
    assert not found.is_sure


def test_names_of_compose_and_of_the_system_are_not_reported(written):
    others = "POSTGRES_PASSWORD COMPOSE_PROJECT_NAME DOCKER_HOST TZ HTTPS_PROXY CELERY_BROKER_URL"
    path = written("".join(f"{name}=x\n" for name in [*others.split(), *NAMES]))

    assert list(misnomers(read(path, NAMES), {}, NAMES)) == []


@pytest.mark.parametrize("name", ["OPERATOR_ADRESS", "SITE_ULR", "PAPERBOY_ANYTHING", "MAIL_FORM"])
def test_mistyped_name_in_the_environment_is_reported(name):
    [found] = misnomers([], {name: "x", "EDITOR": "vi"}, NAMES)

    assert found.text.startswith(f"{name} (the environment) is not a setting")


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "HOSTNAME", "LOGNAME", "MAIL", "SOURCE", "SITE", "SECRET", "SMTP_HOST",
     "GITHUB_TOKEN", "DATABASE_NAME", "API_KEY", "LANG", "PYTHONPATH", "REDIS_PORT", "SHLVL",
     "KUBERNETES_SERVICE_HOST", "DEBIAN_FRONTEND", "SSH_CLIENT", "_", "PAPERBOY_REQUIRE_SHARED"],
)  # fmt: skip
def test_names_of_other_programs_in_the_environment_are_ignored(name):
    assert list(misnomers([], {name: "x"}, NAMES)) == []


def test_a_wrong_name_is_reported_once(written):
    entries = read(written("GREETING=x\nNOTE=Tea\nGREETING=y\nOPERATOR_ADRESS=x\n"), NAMES)
    environment = {"OPERATOR_ADRESS": "x", "operator_adress": "y", "NOTE": "Tea"}

    found = [one.text.partition(" is not")[0] for one in misnomers(entries, environment, NAMES)]

    assert found == ["GREETING (.env, line 1)", "OPERATOR_ADRESS (.env, line 4)"]


@pytest.mark.parametrize(
    ("known", "name", "is_found"),
    [
        ("ABCDEF", "ABCDEX", False),  # short names are too similar
        ("ABCDEFG", "ABCDEFX", True),
        ("ABCDEFG", "ABCDEF", False),
        ("ABCDEFG", "BACDEFG", True),
        ("ABCDEFGHIJ", "ABCDEFGHXJ", True),
        ("ABCDEFGHIJ", "ABCDEFGXXJ", False),
        ("ABCDEFGHIJ", "ABCDEFGH", False),
        ("ABCDEFGHIJK", "ABCDEFGHXXK", True),
        ("ABCDEFGHIJK", "ABCDEFGHI", False),  # nine letters: one typing error
        ("ABCDEFGHIJKLM", "ABCDEFGHIJK", True),
        ("ABCDEFGHIJKLMN", "ABCDEFGHIJK", False),
        ("ABCDEFGHIJKLMN", "ABCDEFGHIXXXMN", False),
    ],
)
def test_allowed_typing_errors_depend_on_the_length_of_the_name(known, name, is_found):
    assert bool(list(misnomers([], {name: "x"}, [known]))) is is_found


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PAPERBOY_SMTP_PASSWORD", "SMTP_URL"),
        ("PAPERBOY_SITE_URL_FILE", "SITE_URL"),
        ("PAPERBOY_OPERATOR_ADRESS", "OPERATOR_ADDRESS"),
        ("PAPERBOY_XYZZY", None),
    ],
)
def test_name_with_our_prefix_is_reported_as_sure(name, meant):
    [found] = misnomers([], {name: "x"}, NAMES)

    question = f"; did you mean {meant}?" if meant else ""
    assert found.text == f"{name} (the environment) is not a setting{question}"
    assert found.is_sure


def test_read_returns_no_entries_without_a_file(tmp_path):
    assert read(None, NAMES) == read(tmp_path / ".env", NAMES) == read(tmp_path, NAMES) == []


def test_file_with_nul_characters_is_rejected(written):
    with pytest.raises(SettingsError, match="has NUL characters"):
        read(written("NOTE=Zk9\0\n"), NAMES)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_entries_have_line_numbers_and_values(written, line_end):
    content = line_end.join(["", "# a comment", "NOTE=Tea", "", "", "export MAX_PAPERS='5'", ""])

    entries = read(written(content), NAMES)

    assert [(one.name, one.value, one.line, one.is_unquoted) for one in entries] == [
        ("NOTE", "Tea", 3, True),
        ("MAX_PAPERS", "5", 6, False),
    ]
    assert values(entries) == {"note": "Tea", "max_papers": "5"}


def test_error_names_every_ambiguous_line(written):
    path = written('NOTE=a #b\nLIST_NAME="a ${x} b"\nSOURCES=a #b\nSECRET_KEY="open\n')

    with pytest.raises(SettingsError) as raised:
        read(path, NAMES)

    places = [one.split(": ")[0] for one in str(raised.value).split("; ") if ".env" in one]
    assert places == [f"{path}, line {line}" for line in (1, 2, 4)]


def test_duplicates_reports_only_settings_with_different_values(written):
    entries = read(written("NOTE=a\nNOTE=a\nOTHER=a\nOTHER=b\nLIST_NAME=a\nLIST_NAME=b"), NAMES)

    [found] = duplicates(entries, NAMES)

    assert found.text == "LIST_NAME stands in lines 5, 6 of .env; line 6 counts"
    assert found.is_sure


def test_suspicions_reports_a_duplicate_setting(written, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    written("MAX_PAPERS=5\nNOTE=Tea\nMAX_PAPERS=6\nNOTE=Tea\n")

    found = [one.text for one in settings.suspicions() if "lines" in one.text]

    assert found == ["MAX_PAPERS stands in lines 1, 3 of .env; line 3 counts"]


# --- Writing ------------------------------------------------------------------------------------


@given(value=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")))
@example("a'b")
@example("it's #1")
@example("ends in \\\\")
@example("$HOME `x` ${y}")
def test_a_written_value_is_read_alike_by_dotenv_and_a_shell(value: str):
    try:
        line = setting_files.rewritten("", {"NOTE": value.strip()})
    except SettingsError:
        assert set(value) & set("'\\")
        return

    assert dotenv_values(stream=io.StringIO(line), interpolate=False)["NOTE"] == value.strip()
    assert shlex.split(line, comments=True) == [f"NOTE={value.strip()}"]
    if "'" in value:
        assert not set(value) & set('"$`\\')  # a shell would replace or end at these


OLD = """\
# The site.
#SITE_URL=http://127.0.0.1:8000

export NOTE='Tea # hot'  # ours
NOTE=Coffee # second
UNKNOWN="kept
over two lines"
"""


def test_a_changed_setting_replaces_its_last_line_and_keeps_all_others():
    new = setting_files.rewritten(OLD, {"NOTE": "Green tea", "SITE_URL": "https://x.example"})

    assert new == OLD.replace("NOTE=Coffee", "NOTE='Green tea'").replace(
        "#SITE_URL=http://127.0.0.1:8000", "SITE_URL=https://x.example"
    )


def test_a_new_setting_is_appended_and_a_removed_one_disappears():
    assert setting_files.rewritten("A=1", {"B": "2"}) == "A=1\nB=2\n"
    assert setting_files.rewritten("A=1\n# B\nB=2\n", {"B": None}) == "A=1\n# B\n"


def test_replacement_text_is_literal():
    assert setting_files.rewritten("#NOTE=\n", {"NOTE": r"\1 \g<0>"}) == "NOTE='\\1 \\g<0>'\n"


# --- Which .env ---------------------------------------------------------------------------------


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an installation; the working directory is another one."""
    folder, here = tmp_path / "installation", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.setattr(settings, "INSTALLATION", folder)
    monkeypatch.chdir(here)
    return folder


def test_env_file_of_the_installation_is_read_from_every_directory(installation: Path):
    (installation / ".env").write_text("MAX_PAPERS=7")

    assert settings.load().max_papers == 7
    assert settings.load().database_url == f"sqlite:///{installation}/paperboy.db"
    assert settings.origins()["MAX_PAPERS"] == str(installation / ".env")


def test_paths_in_it_are_relative_to_the_file(installation: Path):
    (installation / "secrets").mkdir()
    (installation / "secrets" / "key").write_text("k" * 32)
    (installation / "topics.toml").write_text("")
    (installation / ".env").write_text(
        "DATABASE_URL=sqlite:///data/p.db\nCURATED_TOPICS=topics.toml\nSECRET_KEY_FILE=secrets/key"
    )

    loaded = settings.load()

    assert loaded.database_url == f"sqlite:///{installation}/data/p.db"
    assert loaded.curated_topics == installation / "topics.toml"
    assert loaded.secret_key == ("k" * 32,)


def test_env_file_of_the_working_directory_has_priority(installation: Path):
    (installation / ".env").write_text("MAX_PAPERS=7")
    Path(".env").write_text("NOTE=Tea")

    assert (settings.load().max_papers, settings.load().note) == (10, "Tea")
    assert settings.load().database_url == "sqlite:///paperboy.db"


def test_a_path_in_the_environment_is_relative_to_the_working_directory(
    installation: Path, monkeypatch: pytest.MonkeyPatch
):
    (installation / ".env").write_text("DATABASE_URL=sqlite:///a.db")
    monkeypatch.setenv("DATABASE_URL", "sqlite:///b.db")

    assert settings.load().database_url == "sqlite:///b.db"
    assert settings.origins()["DATABASE_URL"] == "environment"


def test_origin_of_a_secret_names_its_file(installation: Path):
    (installation / "key").write_text("k" * 32)
    (installation / ".env").write_text("SECRET_KEY_FILE=key")

    assert settings.origins()["SECRET_KEY"] == f"key (SECRET_KEY_FILE of {installation}/.env)"
    assert settings.origins()["NOTE"] == "default"
