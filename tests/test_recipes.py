"""The recipes of CONTRIBUTING.md work: each is followed in a copy of the project.

A recipe changes exactly the files that it lists, and the new part is used without further code.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers import Inbox
from tests.support.source_server import Reply, serve

ROOT = Path(__file__).resolve().parents[1]
GIT = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Checkout:
    """A copy of the project under version control."""

    folder: Path

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder}/var/paperboy.db"

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.folder / path).read_text()
        assert text.count(old) == 1, f"{path}: {old}"
        self.write(path, text.replace(old, new))

    def run(self, *command: str, **environment: str) -> str:
        """Run a command in the copy; return stdout, or fail with its output."""
        inherited = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                **inherited,
                "PATH": path,
                "PYTHONPATH": str(self.folder),
                "PYTHONDONTWRITEBYTECODE": "1",
                "DATABASE_URL": self.database_url,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, *arguments: str, **environment: str) -> str:
        return self.run(sys.executable, *arguments, **environment)

    def paperboy(self, *arguments: str, **environment: str) -> str:
        return self.python("-m", "pipeline", *arguments, **environment)

    def changed(self) -> set[str]:
        status = self.run("git", "status", "--porcelain", "--untracked-files=all", "-z")
        return {line[3:] for line in status.split("\0") if line}


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    folder = tmp_path / "paperboy"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "var").mkdir()
    copy = Checkout(folder)
    copy.run("git", "init", "--quiet")
    copy.run("git", "add", "--all")
    copy.run(*GIT, "commit", "--quiet", "--message", "Start")
    return copy


def listed_files(recipe: str, name: str) -> set[str]:
    """Return the files that a recipe of CONTRIBUTING.md lists."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = text.partition(f"\n### {recipe}\n")[2].partition("\n### ")[0]
    sentence = re.search(r"^Files: (.+?)\.\s", section, re.DOTALL | re.MULTILINE)
    assert sentence, recipe
    return {path.replace("<name>", name) for path in re.findall(r"`([^`]+)`", sentence[1])}


# --- A source -----------------------------------------------------------------------------------

SOURCE = '''"""Moss Reports source: a list of the newest reports, in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from pipeline.domain import Sighting
from pipeline.errors import SourceError
from pipeline.sources import FetchResult
from pipeline.sources.client import Client
from pipeline.sources.documents import DocumentError, parse_json
from pipeline.sources.documents import Skipped, collect, day_in, text_in
from pipeline.sources.text import clean, clean_title

NAME = "moss"


@dataclass(frozen=True, slots=True)
class Moss:
    client: Client
    site: str = "https://moss.example.org"

    @property
    def name(self) -> str:
        return NAME

    def news_due(self, on: date) -> bool:
        return on.weekday() < 5

    def read(self, *, since: date, cursor: str | None, now: datetime) -> FetchResult:
        answer = self.client.get(f"{self.site}/newest.json", source=NAME, limit=NAME, now=now)
        skipped = Skipped()
        try:
            sightings = collect(parse_json(answer.body), entry_sighting, skipped)
        except DocumentError as error:
            raise SourceError(NAME, f"the list {error}") from error
        return FetchResult(sightings, skipped=skipped.lines)


def entry_sighting(entry: Any) -> Sighting:
    """Parse one report; raise DocumentError if it has no title."""
    title = clean_title(text_in(entry, "title")) if isinstance(entry, dict) else ""
    if not title:
        raise DocumentError("has no title")
    return Sighting(
        source=NAME,
        source_id=clean(text_in(entry, "number"), 200),
        title=title,
        abstract=clean(text_in(entry, "summary")),
        announced_on=day_in(entry.get("day")),
    )
'''
ENTRY = '        "moss": SourceEntry("Moss Reports", _moss, timedelta(seconds=2)),\n'
FACTORY = """def _moss(client: Client, settings: Settings) -> Source:
    from pipeline.sources.moss import Moss

    return Moss(client)


"""
TEST = '''"""Moss Reports: the list of the newest reports is parsed."""

from pipeline.sources.moss import entry_sighting


def test_report_is_parsed():
    assert entry_sighting({"title": "A <b>moss</b>", "number": 7}).title == "A moss"
'''
# The client of the program never connects to loopback, so this reads the source with one that may.
READ = """
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pipeline import bootstrap, ingest, settings, sources
from pipeline.sources.client import Client

built = bootstrap.build(settings.load(None))
[moss] = sources.build(["moss"], Client("a test", allow_private=True), built.settings)
ingest.ingest(built.engine, [replace(moss, site=sys.argv[1])], now=datetime.now(UTC))
"""


def test_recipe_of_a_source(checkout: Checkout):
    checkout.write("pipeline/sources/moss.py", SOURCE)
    checkout.replace(
        "pipeline/sources/__init__.py", "SOURCES: Mapping", f"{FACTORY}SOURCES: Mapping"
    )
    checkout.replace(
        "pipeline/sources/__init__.py",
        '        "medrxiv": SourceEntry("medRxiv"),\n',
        f'        "medrxiv": SourceEntry("medRxiv"),\n{ENTRY}',
    )
    checkout.python("-m", "tests.reference")
    row = "| `biorxiv`, `medrxiv` (from files) |"
    checkout.replace("docs/sources.md", row, f"| `moss` | title, abstract | upvotes |\n{row}")
    checkout.write("tests/test_sources_moss.py", TEST)

    assert checkout.changed() == listed_files("Add a source", "moss")

    checkout.paperboy("db", "upgrade")
    with serve() as site:
        report = (
            b'[{"number": "7", "title": "On Moss", "summary": "It grows.", "day": "2030-01-02"}]'
        )
        site.replies["/newest.json"] = Reply(report)
        checkout.python("-c", READ, site.url)
    checkout.write("var/records.jsonl", '{"title": "On Lichen", "id": "8"}\n')
    checkout.paperboy("ingest", "--source", "moss", "--file", "var/records.jsonl")
    assert "moss" in checkout.paperboy("sources")
    assert "moss" in checkout.paperboy("ingest", "--help")
    published = checkout.paperboy("papers", "--json")
    assert "On Moss" in published
    assert "On Lichen" in published
    assert "1 passed" in checkout.python("-m", "pytest", "-q", "tests/test_sources_moss.py")
    # The type of each entry is checked, too.
    checkout.run("mypy", "pipeline/sources/moss.py", "pipeline/sources/__init__.py")


# --- A mail -------------------------------------------------------------------------------------

MAIL = """
from datetime import UTC, datetime, timedelta
from pipeline import bootstrap, settings, signup
from pipeline.domain import DeliveryKind
from pipeline.signup import Choices, parse_queries
from pipeline.storage import transactional

built, now = bootstrap.build(settings.load(None)), datetime.now(UTC)
reader = signup.add(
    built.engine, "ada@example.org", Choices(parse_queries(["moss"])), confirmed=True,
    suppression_key=built.suppression_key, now=now,
)
with built.engine.begin() as conn:
    transactional.enqueue(
        conn, DeliveryKind.REMINDER, reader.id, about="once", expires_at=now + timedelta(days=1),
        now=now,
    )
built.dispatch(once=True)
"""
TEXT_TEMPLATE = """{{ branding.list_name }}

{{ _("You can still change your topics, for %(days)s days:", days=days) }} {{ preferences_url }}

--
{{ _("Unsubscribe:") }} {{ unsubscribe_url }}
{% include "partials/operator.txt" %}
"""


def test_recipe_of_a_mail(checkout: Checkout, inbox: Inbox):
    html = (checkout.folder / "emails/link.mjml").read_text()
    checkout.write("emails/reminder.mjml", html.replace("Your preferences link", "Your reminder"))
    checkout.write("emails/reminder.txt", TEXT_TEMPLATE)
    member = '    DATA_LINK = "data-link"'
    checkout.replace("pipeline/domain.py", member, f'    REMINDER = "reminder"\n{member}')
    entry = "        DeliveryKind.DATA_LINK: MailKind("
    checkout.replace(
        "pipeline/domain.py",
        entry,
        "        DeliveryKind.REMINDER: MailKind(\n"
        '            "reminder",\n'
        '            subject=gettext_noop("Reminder: %(name)s"),\n'
        "            link=LinkPurpose.PREFERENCES,\n"
        f"        ),\n{entry}",
    )
    programs = Path(sys.executable).parent
    checkout.run("make", "--assume-old=.venv/.installed-dev", f"BIN={programs}", "messages")

    assert checkout.changed() == listed_files("Add a mail", "reminder")

    checkout.paperboy("db", "upgrade")
    checkout.python("-c", MAIL, SMTP_URL=inbox.url)
    (mail,) = inbox.received
    assert b"Subject: Reminder: Paperboy\r\n" in mail.raw
    assert b"change your topics, for 30 days" in mail.raw
    assert b":reminder:list:" in mail.raw
    tests = (
        "tests/test_signup_mails.py",
        "tests/test_doctor_mail.py",
        "tests/test_translations.py",
    )
    chosen = "reminder or entry or sample or template_has or mails_have"
    checkout.python("-m", "pytest", "-q", *tests, "-k", chosen)


# --- A setting ----------------------------------------------------------------------------------


def test_recipe_of_a_setting(checkout: Checkout):
    checkout.replace(
        "pipeline/settings.py",
        '    list_name: str = "Paperboy"\n',
        '    list_name: str = "Paperboy"\n    motto: str = "Read less"\n',
    )
    place = "# The name of the newsletter, in mails and on the site.\n"
    checkout.replace(".env.example", place, f"# A motto.\n#MOTTO=Read less\n\n{place}")
    checkout.python("-m", "tests.reference")

    assert checkout.changed() == listed_files("Add a setting", "motto")

    assert "**`MOTTO`**: default `Read less`" in (checkout.folder / "docs/settings.md").read_text()
    read = "from pipeline import settings; print(settings.load(None).motto)"
    assert checkout.python("-c", read) == "Read less\n"
    assert checkout.python("-c", read, MOTTO="Read more") == "Read more\n"
    tests = ("tests/test_repository.py", "tests/test_docs.py")
    checkout.python("-m", "pytest", "-q", *tests, "-k", "env_example or setting")


# --- A migration --------------------------------------------------------------------------------

TABLE = '''

class MossRow(Table):
    """A kind of moss."""

    __tablename__ = "mosses"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str]
'''
COLUMNS = """
from sqlalchemy import inspect
from pipeline import settings
from pipeline.storage.database import open_engine
inspected = inspect(open_engine(settings.load(None).database_url))
print([column["name"] for column in inspected.get_columns("mosses")])
"""


def test_recipe_of_a_migration(checkout: Checkout):
    checkout.paperboy("db", "upgrade")
    schema = checkout.folder / "pipeline/storage/schema.py"
    schema.write_text(schema.read_text() + TABLE)
    checkout.python("-m", "tests.reference")
    draft = f"sqlite:///{checkout.folder}/var/draft.db"  # as `make migration` does
    checkout.paperboy("db", "upgrade", DATABASE_URL=draft)
    checkout.run("alembic", "revision", "--autogenerate", "-m", "Add mosses", DATABASE_URL=draft)

    (added,) = checkout.changed() - {"pipeline/storage/schema.py", "docs/schema.md"}
    name = Path(added).stem
    assert name == "0002_add_mosses"
    assert checkout.changed() == listed_files("Add a migration", name)

    checkout.paperboy("db", "upgrade")
    assert checkout.python("-c", COLUMNS) == "['id', 'name']\n"
    checkout.paperboy(
        "subscribers", "list"
    )  # refuses a database that is not at the newest revision
    tests = ("tests/test_storage_migrations.py", "tests/test_docs.py")
    checkout.python(
        "-m", "pytest", "-q", *tests, "-m", "not full", "-k", "tables_of_the_schema or schema"
    )
