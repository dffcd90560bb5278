"""What a target is, and the files that several targets are made of."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutators import Mutator

Run = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """One reader, with how to call it.

    Args:
        name: Its name on the command line.
        reads: What it reads, for the table.
        prepare: Given an empty folder, returns the function that reads one input.
        seeds: Valid inputs, from which others are made.
        mutate: How inputs are changed.
    """

    name: str
    reads: str
    prepare: Callable[[Path], Run]
    seeds: Sequence[bytes]
    mutate: Mutator


def as_json(*contents: Any) -> list[bytes]:
    """Return contents as JSON files."""
    return [json.dumps(content).encode() for content in contents]


def read_object(data: bytes) -> dict[str, Any]:
    """Return an input that is a JSON object of a target's own form; {} for any other."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return a safetensors file of float32, float16, int64 and int32 arrays."""
    names = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "int32": "I32", "uint32": "U32"}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    data = b""
    for name, array in arrays.items():
        content = array.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "a", "dog", "##s", ".", "news", "!")


def wordpiece(**changed: Any) -> dict[str, Any]:
    """Return the content of a BERT model's tokenizer.json."""
    special = [
        {"id": number, "content": word, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for number, word in enumerate(WORDS[:5])
    ]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                word: {"id": word, "ids": [number], "tokens": [word]} for number, word in enumerate(WORDS[2:4], 2)
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {word: number for number, word in enumerate(WORDS)},
        },
        **changed,
    }  # fmt: skip


def table(rows: int = len(WORDS), width: int = 4) -> np.ndarray:
    """Return a table of word embeddings."""
    return np.arange(rows * width, dtype=np.float32).reshape(rows, width) / 10
