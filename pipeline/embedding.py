"""Run a sentence-embedding model: ONNX, on the CPU, from a folder, an installed package or a hub.

Requires the extra `semantic`, which is imported only when a model is loaded.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import SettingsError

Vectors = npt.NDArray[np.float32]

MODEL, TOKENIZER = ("model.onnx", "onnx/model.onnx"), ("tokenizer.json",)
HUB_NAME: Final = re.compile(r"[\w.-]+/[\w.-]+")  # "organisation/model"
MOST_TOKENS: Final = 256  # context length of small models; an abstract has about 250


class Model:
    """A model that embeds texts as vectors of length 1.

    `places` are folders, names of installed packages, or names of models on the hub, which are
    downloaded once into the cache of `huggingface_hub`. Each file is taken from the first place
    that has it. Raises SettingsError, naming the place, if a file is missing or is not a model.
    """

    def __init__(self, places: Sequence[str]) -> None:
        where = " ".join(places)
        model, tokenizer = _find(places, MODEL), _find(places, TOKENIZER)
        digest = hashlib.sha256(model)
        digest.update(tokenizer)
        self.name = digest.hexdigest()[:16]  # hash of the files: a new model has a new name
        try:
            self._session, self._tokenizer = _open(model, tokenizer)
        except ImportError as error:
            raise SettingsError(
                f"SEMANTIC_MODEL needs {error.name}: run `make semantic`"
            ) from error
        except Exception as error:  # both libraries raise errors without a common base class
            raise SettingsError(f"SEMANTIC_MODEL: {where} is not a model: {error}") from error
        self._inputs = {one.name for one in self._session.get_inputs()}
        self.size = self._try(where)  # dimensions of a vector

    def _try(self, where: str) -> int:
        try:
            return self._one("a try").size
        except Exception as error:  # see above
            raise SettingsError(
                f"SEMANTIC_MODEL: {where} is not a model of sentences: {error}"
            ) from error

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return an array with one row per text."""
        # Embed one by one: a batch is padded to its longest text, which takes as long and three
        # times the memory.
        return np.array([self._one(text) for text in texts], dtype=np.float32)

    def _one(self, text: str) -> Vectors:
        ids = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        if not ids.size:  # no words, and a tokenizer that adds no special tokens
            return np.zeros(self.size, dtype=np.float32)
        given = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "token_type_ids": np.zeros_like(ids),
        }
        found = self._session.run(None, {n: v for n, v in given.items() if n in self._inputs})[0]
        vector = found.reshape(-1, found.shape[-1]).mean(axis=0)  # mean over tokens, if it has them
        return np.asarray(vector / (np.linalg.norm(vector) or 1.0), dtype=np.float32)


class Embeddings:
    """A model behind the interface of matching, without a cache: for files that are read once."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def papers(self, texts: Sequence[str]) -> Vectors:
        return self._model.embed(texts)

    def topic(self, text: str) -> Vectors:
        return np.asarray(self._model.embed([text])[0])


def from_settings(places: Sequence[str]) -> Embeddings | None:
    """Return the embeddings of SEMANTIC_MODEL; None if it names no place."""
    return Embeddings(Model(places)) if places else None


def _open(model: bytes, tokenizer: bytes) -> tuple[Any, Any]:
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # workers share the CPUs
    options.enable_cpu_mem_arena = False  # it keeps the memory of the longest text allocated
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    reader = Tokenizer.from_buffer(tokenizer)
    reader.enable_truncation(MOST_TOKENS)
    reader.no_padding()
    return session, reader


def _find(places: Iterable[str], names: tuple[str, ...]) -> bytes:
    """Return the file from the first place that has it. Raises SettingsError if none does."""
    looked = []
    for place in places:
        looked.append(place)
        is_on_hub = HUB_NAME.fullmatch(place) and not Path(place).is_dir()
        found = _from_hub(place, names) if is_on_hub else _in_folder(_folder(place), names)
        if found is not None:
            return found
    raise SettingsError(f"SEMANTIC_MODEL: no {names[0]} in {' or '.join(looked)}")


def _in_folder(folder: Path, names: tuple[str, ...]) -> bytes | None:
    for name in names:
        if (folder / name).is_file():
            return (folder / name).read_bytes()
        for archive in sorted(folder.glob("*.zip")):
            if (found := _in_archive(archive, name)) is not None:
                return found
    return None


def _from_hub(place: str, names: tuple[str, ...]) -> bytes | None:
    """Return a file of a hub model, from the local cache if it has been downloaded before.

    Needs no network then. None if the model lacks the file.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise SettingsError(f"SEMANTIC_MODEL needs {error.name}: run `make semantic`") from error
    for name in names:
        with suppress(LocalEntryNotFoundError):
            return Path(hf_hub_download(place, name, local_files_only=True)).read_bytes()
    for name in names:
        try:
            return Path(hf_hub_download(place, name)).read_bytes()
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # also raised without a network
                raise _unfetched(place, error) from error
        except Exception as error:  # errors of HTTP, the hub or the disk
            raise _unfetched(place, error) from error
    return None


def _unfetched(place: str, error: Exception) -> SettingsError:
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return SettingsError(f"SEMANTIC_MODEL: {place} cannot be fetched: {first}")


def _folder(place: str) -> Path:
    """Return the folder of a place; a package is located without being imported."""
    if Path(place).is_dir():
        return Path(place)
    found = find_spec(place) if place.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise SettingsError(f"SEMANTIC_MODEL: {place} is no folder and no installed package")
    return Path(found.submodule_search_locations[0])


def _in_archive(archive: Path, name: str) -> bytes | None:
    """Return a file of a zip archive or None. Raises SettingsError if the archive is damaged."""
    try:
        with zipfile.ZipFile(archive) as files:
            return files.read(name) if name in files.namelist() else None
    except (zipfile.BadZipFile, OSError) as error:
        raise SettingsError(f"SEMANTIC_MODEL: {archive} cannot be read: {error}") from error
