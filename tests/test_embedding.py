"""Semantic matching: a model changes only the order, and each paper is embedded once."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline import editions
from pipeline import ingest as ingesting
from pipeline.bench import match, quality
from pipeline.bootstrap import Services
from pipeline.embedding import MOST_TOKENS, Embeddings, Model, from_settings
from pipeline.errors import SettingsError
from pipeline.matching.index import PaperIndex
from pipeline.matching.match import PaperText
from pipeline.matching.query import parse
from pipeline.settings import Settings
from pipeline.sources import FetchResult
from pipeline.storage import papers
from pipeline.storage.database import read_only
from pipeline.storage.embeddings import CachedEmbeddings
from pipeline.storage.schema import EmbeddingRow, MatchRow
from pipeline.web.papers.search_index import LiveIndex
from tests.support.factories import NOW, make_sighting
from tests.support.newsroom import add_reader, count, matches, rows, stored
from tests.support.tiny_model import MODEL, write_model, write_tokenizer

FILLER = "We study a question and answer it with some care"
ABOUT_STREAMS = PaperText("1", "Rivers", "brook brook brook brook brook brook brook brook brook")
ABOUT_MOONS = PaperText("2", "Rivers", "moon moon moon")
NO_SUCH_WORD = PaperText("3", "Brook", "brook brook brook")
OTHERS = [PaperText(f"{n}", f"Paper {n}", FILLER) for n in range(10, 40)]


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def model(folder) -> Model:
    return Model([str(folder)])


class Counting:
    """A model that records the texts it embeds."""

    def __init__(self, model: Model, name: str = "") -> None:
        self.model, self.name, self.size = model, name or model.name, model.size
        self.read: list[str] = []

    def embed(self, texts):
        self.read += texts
        return self.model.embed(texts)


def store(engine, *found, embedder=None, now=NOW):
    readings = [("arxiv", FetchResult(sightings=found))]
    ingesting.ingest_recorded(engine, readings, now=now, embedder=embedder)


def follow(engine, query, email):
    """Add a reader with a topic that the next ingest matches."""
    add_reader(engine, query, email=email)
    editions.match_late_topics(engine, 0, NOW)


class Hub(BaseHTTPRequestHandler):
    """A model hub reduced to two files; `asked` has the names of the files that were sent."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        name = self.path.partition("/resolve/main/")[2].partition("?")[0]
        name = name or self.path.rpartition(f"/{'c' * 40}/")[2]
        content = self.files.get(name) if self.path.startswith("/reading/group/") else None
        self.send_response(200 if content else 404)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        if content:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        else:
            known = self.path.startswith("/reading/group/")
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.end_headers()
        if with_body and content:
            self.requests.append(name)
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(folder):
    Hub.files = {
        "onnx/model.onnx": MODEL,
        "tokenizer.json": (folder / "tokenizer.json").read_bytes(),
    }
    Hub.requests = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


LOAD = """
import sys
from pipeline.embedding import Model
from pipeline.errors import SettingsError
try:
    print(Model(sys.argv[1:]).name)
except SettingsError as error:
    print(error)
"""


def load_in_a_process(hub: str, home: Path, place: str) -> str:
    """Load a model in a new process: the hub's library reads its settings at import."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOAD, place], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.full
def test_hub_model_is_downloaded_once_and_then_loaded_offline(hub, folder, tmp_path):
    """The hub's own library fetches it over HTTP; the second time the hub is unreachable."""
    expected = Model([str(folder)]).name

    first = load_in_a_process(hub, tmp_path / "home", "reading/group")
    second = load_in_a_process("http://127.0.0.1:9", tmp_path / "home", "reading/group")

    assert first == second == expected
    assert sorted(Hub.requests) == ["onnx/model.onnx", "tokenizer.json"]


@pytest.mark.full
def test_unknown_hub_model_fails_with_its_name(hub, tmp_path):
    said = load_in_a_process(hub, tmp_path / "home", "nobody/has-it")

    assert said.startswith("SEMANTIC_MODEL: nobody/has-it cannot be fetched:")


# --- The model ----------------------------------------------------------------------------------


def test_synonyms_have_similar_normalized_vectors(model):
    river, brook, moon = model.embed(["rivers", "brook", "moon"])

    assert np.linalg.norm([river, brook, moon], axis=1) == pytest.approx(1)
    assert river @ brook > 0.95
    assert river @ moon < 0.5


def test_text_beyond_the_token_limit_is_ignored(model):
    short, long = model.embed(["rivers " * MOST_TOKENS, "rivers " * MOST_TOKENS + "moon " * 50])

    assert short == pytest.approx(long)


def test_text_without_words_has_a_vector_without_nan(model):
    assert not np.isnan(model.embed(["", "..."])).any()


def test_from_settings_returns_none_without_a_model():
    assert from_settings(()) is None


def test_model_name_depends_on_its_files_only(folder, tmp_path):
    copied = write_model(tmp_path / "elsewhere")
    changed = write_model(tmp_path / "changed")
    tokenizer = json.loads((changed / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["creek"] = 2
    (changed / "tokenizer.json").write_text(json.dumps(tokenizer))

    assert Model([str(copied)]).name == Model([str(folder)]).name
    assert Model([str(changed)]).name != Model([str(folder)]).name


def test_model_loads_from_packages_without_importing_them(tmp_path, monkeypatch):
    """Neither package is imported: importing would run its code."""
    for name in ("tiny_weights", "tiny_words"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "tiny_weights/onnx").mkdir()
    (tmp_path / "tiny_weights/onnx/model.onnx").write_bytes(MODEL)
    write_tokenizer(tmp_path / "tokenizer.json")
    with zipfile.ZipFile(tmp_path / "tiny_words/model.zip", "w") as archive:
        archive.write(tmp_path / "tokenizer.json", "tokenizer.json")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert Model(["tiny_weights", "tiny_words"]).embed(["moon"]).shape == (1, 3)


@pytest.mark.parametrize("broken", ["model.onnx", "tokenizer.json"])
def test_invalid_model_file_is_rejected_with_its_folder(folder, broken):
    (folder / broken).write_bytes(b"{ half a file")

    with pytest.raises(SettingsError, match="is not a model") as refused:
        Model([str(folder)])

    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json"])
def test_missing_model_file_is_rejected_with_its_folder(folder, missing):
    (folder / missing).unlink()

    with pytest.raises(SettingsError, match=f"no {missing} in {folder}"):
        Model([str(folder)])


def test_unknown_model_location_is_rejected():
    with pytest.raises(SettingsError, match="no_such_package is no folder and no installed"):
        Model(["no_such_package"])


def test_missing_onnxruntime_error_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(SettingsError, match="make semantic"):
        Model([str(folder)])


# --- The order ----------------------------------------------------------------------------------


def test_semantic_score_orders_papers_with_equal_words(model):
    some = [ABOUT_MOONS, ABOUT_STREAMS, *OTHERS]
    by_words = PaperIndex(some).search(parse("rivers"))
    by_meaning = PaperIndex(some, embedder=Embeddings(model)).search(parse("rivers"))

    assert [one.paper for one in by_words] == [0, 1]  # the shorter one
    assert [one.paper for one in by_meaning] == [1, 0]


@pytest.mark.parametrize("query", ["rivers", '"rivers"', "ti:rivers", "rivers OR zebras"])
def test_embedder_does_not_change_the_set_of_matches(model, query):
    some = [NO_SUCH_WORD, ABOUT_MOONS, ABOUT_STREAMS, *OTHERS]
    by_words = PaperIndex(some).search(parse(query))
    by_meaning = PaperIndex(some, embedder=Embeddings(model)).search(parse(query))

    assert {one.paper for one in by_meaning} == {one.paper for one in by_words} == {1, 2}
    assert {(one.paper, one.breadth, one.phrases) for one in by_meaning} == {
        (one.paper, one.breadth, one.phrases) for one in by_words
    }


def test_filter_only_query_scores_1_with_an_embedder(model):
    some = [replace(ABOUT_MOONS, categories=("cs.CL",)), ABOUT_STREAMS]

    found = PaperIndex(some, embedder=Embeddings(model)).search(parse("cat:cs"))

    assert [one.score for one in found] == [1]


def test_a_score_does_not_depend_on_the_other_papers_of_its_batch(model):
    corpus = PaperIndex([ABOUT_MOONS, ABOUT_STREAMS, *OTHERS]).statistics()
    alone = PaperIndex([ABOUT_STREAMS], corpus, Embeddings(model)).search(parse("rivers"))
    among = PaperIndex([ABOUT_MOONS, ABOUT_STREAMS], corpus, Embeddings(model))

    assert alone[0].score == pytest.approx(among.search(parse("rivers"))[0].score)


def test_embedder_improves_ndcg_of_a_labelled_set(tmp_path, model):
    some = [ABOUT_MOONS, ABOUT_STREAMS, *OTHERS]
    files = {
        "papers": [{"id": p.id, "title": p.title, "abstract": p.abstract} for p in some],
        "topics": [{"id": "t", "query": "rivers"}],
        "qrels": [{"topic": "t", "paper": "1", "grade": 1}],
    }
    for name, lines in files.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    known = quality.read_set(tmp_path)

    assert quality.measure(known, embedder=Embeddings(model)).ndcg > quality.measure(known).ndcg


@pytest.mark.full
def test_match_benchmark_reports_embedding_time_and_memory(folder):
    plan = match.Plan(papers=20, topics=5, readers=10)
    with_model = match.run(plan, [str(folder)]).as_json()

    assert with_model["embed_s"] > 0
    assert with_model["embed_mb"] > 0
    assert match.run(plan).as_json()["embed_s"] is None


# --- Caching ------------------------------------------------------------------------------------


def test_paper_is_embedded_once_for_several_topics(engine, model):
    """Ingest embeds it for a followed topic; a new topic reuses the cached vector."""
    counting = Counting(model)
    kept = CachedEmbeddings(engine, counting)
    follow(engine, "rivers", "ada@example.org")
    store(engine, make_sighting("3001.00001", title="Rivers"), embedder=kept)
    by_ingest = [text for text in counting.read if text.startswith("Rivers. ")]
    add_reader(engine, "ti:rivers", email="bob@example.org")
    editions.match_late_topics(engine, 1, NOW, CachedEmbeddings(engine, counting))

    assert len(by_ingest) == 1
    assert [text for text in counting.read if text.startswith("Rivers. ")] == by_ingest
    assert count(engine, EmbeddingRow) == 1
    assert len(matches(engine)) == 2


def test_changed_text_or_model_is_embedded_again(engine, model):
    texts = ["rivers", "a moon"]
    CachedEmbeddings(engine, model).papers(texts)
    counting = Counting(model)
    CachedEmbeddings(engine, counting).papers(["rivers", "a brook"])
    renamed = Counting(model, name="another")
    CachedEmbeddings(engine, renamed).papers(texts)

    assert counting.read == ["a brook"]
    assert renamed.read == texts
    assert count(engine, EmbeddingRow) == 5


def test_embeddings_cached_before_a_crash_are_reused(engine, model, monkeypatch):
    """If a run is killed in the middle, the next one embeds only the rest."""
    monkeypatch.setattr("pipeline.storage.embeddings.EMBEDDED_AT_ONCE", 2)
    texts = [f"rivers {n}" for n in range(5)]

    class Dying(Counting):
        def embed(self, some):
            if len(self.read) >= 4:
                raise KeyboardInterrupt
            return super().embed(some)

    with pytest.raises(KeyboardInterrupt):
        CachedEmbeddings(engine, Dying(model)).papers(texts)
    counting = Counting(model)
    vectors = CachedEmbeddings(engine, counting).papers(texts)

    assert counting.read == [texts[4]]
    assert vectors == pytest.approx(model.embed(texts), abs=1e-3)


def test_concurrent_embedding_of_the_same_papers_succeeds(engine, model):
    texts = [f"rivers {n} moon" for n in range(120)]
    made = []

    def work(some):
        made.append(len(CachedEmbeddings(engine, model).papers(some)))

    threads = [threading.Thread(target=work, args=(some,)) for some in (texts, texts[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert made == [120, 120]
    assert count(engine, EmbeddingRow) == 120


def test_site_creates_no_embeddings_and_ranks_unknown_papers_as_average(engine, model):
    """Embedding a month of papers takes minutes, and no visitor should wait for it."""
    kept = CachedEmbeddings(engine, model)
    store(engine, make_sighting(title="Rivers", abstract="brook brook"),
          make_sighting(title="Rivers", abstract="moon moon"))  # fmt: skip
    kept.papers([f"{p.title}. {p.abstract}" for p in stored(engine)])
    store(engine, make_sighting(title="Rivers", abstract="brook"), now=NOW + timedelta(1))
    waiting = replace(kept, makes=False)
    live_index = LiveIndex(engine, background=False, embedder=waiting)
    live_index.renew()

    found = live_index.current().find(parse("rivers"))

    assert count(engine, EmbeddingRow) == 2
    streams, moons, unknown = found.scores.tolist()
    assert moons < unknown < streams


def test_topic_embedding_is_not_stored(engine, model):
    CachedEmbeddings(engine, model).topic("a secret wish")

    assert count(engine, EmbeddingRow) == 0


def test_vector_takes_two_bytes_per_dimension(engine, model):
    CachedEmbeddings(engine, model).papers(["rivers"])

    assert len(rows(engine, EmbeddingRow)[0].vector) == 6


def test_services_load_the_model_from_the_settings(engine, folder):
    with_model = Services(Settings(semantic_model=(str(folder),)), engine)

    assert with_model.embeddings is with_model.embeddings is not None
    assert with_model.known_embeddings == replace(with_model.embeddings, makes=False)
    assert Services(Settings(), engine).embeddings is None


def test_ingest_stores_semantic_scores(engine, model):
    follow(engine, "rivers", "ada@example.org")
    store(
        engine,
        make_sighting("3001.00001", title="Rivers", abstract="moon moon moon"),
        make_sighting("3001.00002", title="Rivers", abstract="brook brook brook"),
        embedder=CachedEmbeddings(engine, model),
    )

    with read_only(engine) as conn:
        ids = {paper.key: paper.id for paper in papers.announced(conn, through_batch=1)}
    scores = {row.paper_id: row.score for row in rows(engine, MatchRow)}
    assert scores[ids["3001.00002"]] > scores[ids["3001.00001"]]
