"""A real model of three dimensions that knows three words, for tests of semantic matching.

`MODEL` is an ONNX graph of one Gather: input_ids [b, n] -> vectors [b, n, 3], from a table with the
rows (.1, .1, .1) for unknown words, (1, 0, 0), (.9, .1, 0) and (0, 1, 0).
"""

from __future__ import annotations

import base64
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

MODEL = base64.b64decode(
    "CAg6lQEKGQoBdAoJaW5wdXRfaWRzEgF5IgZHYXRoZXISAWcqOwgECAMQAUIBdEowzczMPc3MzD3NzMw9AACAPwAAAA"
    "AAAAAAZmZmP83MzD0AAAAAAAAAAAAAgD8AAAAAWh0KCWlucHV0X2lkcxIQCg4IBxIKCgMSAWIKAxIBbmIZCgF5EhQK"
    "EggBEg4KAxIBYgoDEgFuCgIIA0IECgAQDQ=="
)
WORDS = {"[UNK]": 0, "rivers": 1, "brook": 2, "moon": 3}


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(MODEL)
    write_tokenizer(folder / "tokenizer.json")
    return folder


def write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(path))
