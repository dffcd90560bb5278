"""Targets: tokenizer files, as a converted folder is read, and as a conversion builds them with transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.mutators import JsonMutator
from fuzz.targets.base import WORDS, Run, Target, as_json, read_object, wordpiece
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, Source
from mlx_hf_bridge.conversion.tokenizer_class import tokenizer_config
from mlx_hf_bridge.conversion.tokenizer_files import load_tokenizer, write_tokenizer
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.models import family_for

_TEXTS = ["the cat sat .", "", "news \u00e9\u4e2d \U0001f600 " * 3, ("a dog", "the news")]
_BERT = {"model_type": "bert"}


def _encode(tokenizer: Tokenizer) -> None:
    for text in _TEXTS:
        for tokens in tokenizer.encode([text], 12):
            assert len(tokens) <= 12 and tokens.ids.dtype == np.int32, tokens
    assert tokenizer.loses_token_type_ids in (True, False)
    tokenizer.convert_ids_to_tokens([0, 1, 5])
    tokenizer.convert_tokens_to_ids(["cat", "no such"])


def _write(folder: Path, data: bytes) -> bool:
    """Write the files of an input, a JSON object of contents by name; False if it is none."""
    files = read_object(data)
    for name in _NAMES:
        path = folder / name
        if name in files:
            text = (
                files[name] if isinstance(files[name], str) and not name.endswith(".json") else json.dumps(files[name])
            )
            path.write_bytes(text.encode("utf-8", "surrogatepass"))
        else:
            path.unlink(missing_ok=True)
    return bool(files)


def _read(folder: Path) -> Run:
    def run(data: bytes) -> None:
        if _write(folder, data):
            _encode(Tokenizer.from_folder(folder, tokenizer_config(folder)))

    return run


def _build(folder: Path) -> Run:
    source, converted = folder / "source", folder / "converted"
    source.mkdir()
    converted.mkdir()
    family = family_for(_BERT)

    def run(data: bytes) -> None:
        for path in converted.iterdir():
            path.unlink()
        if not _write(source, data):
            return
        checkpoint = Checkpoint(Source("x", source, None, {}, HubOptions()), source, source, dict(_BERT), None)
        write_tokenizer(checkpoint, family, converted)
        _encode(load_tokenizer(converted, family, _BERT))

    return run


_NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt")
_NAMES += ("vocab.json", "merges.txt")
_SETTINGS: dict[str, Any] = {
    "tokenizer_class": "BertTokenizer", "model_max_length": 40, "pad_token": "[PAD]", "cls_token": "[CLS]",
    "mask_token": "[MASK]", "truncation_side": "right", "do_lower_case": True,
    "model_input_names": ["input_ids", "attention_mask"], "added_tokens_decoder": {"0": {"content": "[PAD]"}},
}  # fmt: skip
_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
_WORDS = {word: number for number, word in enumerate(WORDS)}
_REPLACE = {"type": "Replace", "pattern": {"Regex": "a+"}, "content": "a"}
_SPLIT = {"type": "Split", "pattern": {"Regex": "\\w+|\\s"}, "behavior": "Isolated", "invert": False}
_BPE = wordpiece(
    normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, _REPLACE]},
    pre_tokenizer={"type": "Sequence", "pretokenizers": [_SPLIT, _BYTES]},
    post_processor={
        "type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2], "trim_offsets": True,
        "add_prefix_space": False,
    },
    model={
        "type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {**_WORDS, "c": 14, "t": 15, "at": 16}, "merges": [["a", "t"]],
    },
)  # fmt: skip
_UNIGRAM = wordpiece(
    normalizer={"type": "Precompiled", "precompiled_charsmap": ""},
    pre_tokenizer={"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    model={
        "type": "Unigram", "unk_id": 0, "byte_fallback": False,
        "vocab": [["[PAD]", 0.0], ["\u2581the", -1.5], ["a", -2.0], ["t", -3.5]],
    },
)  # fmt: skip
_METASPACE = {**_UNIGRAM, "normalizer": {"type": "Lowercase"}}
_READ = as_json(
    *(
        {"tokenizer.json": content, "tokenizer_config.json": _SETTINGS}
        for content in (wordpiece(), _BPE, _UNIGRAM, _METASPACE)
    ),
    {"tokenizer.json": wordpiece(model={"type": "WordLevel", "vocab": {"the": 0, "[UNK]": 1}, "unk_token": "[UNK]"})},
)
_SPECIAL_TOKENS = {"pad_token": "[PAD]"}
_VOCABULARY = "\n".join(WORDS) + "\n"
_BUILT = [
    *_READ,
    *as_json(
        {"vocab.txt": _VOCABULARY, "tokenizer_config.json": _SETTINGS, "special_tokens_map.json": _SPECIAL_TOKENS},
        {
            "vocab.json": {**_WORDS, "t": 14, "h": 15, "e": 16, "th": 17}, "merges.txt": "#version: 0.2\nt h\nth e\n",
            "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}, "added_tokens.json": {"[NEW]": 18},
        },
    ),
]  # fmt: skip
_CLASSES = (
    "AutoTokenizer",
    "BertTokenizer",
    "T5Tokenizer",
    "XLMTokenizer",
    "EsmTokenizer",
    "LlamaTokenizer",
    "Trainer",
)

TARGETS = (
    Target("tokenizer", "tokenizer.json and its settings, and a call", _read, _READ, JsonMutator(_READ, _CLASSES)),
    Target("tokenizer-build", "vocabularies, through transformers", _build, _BUILT, JsonMutator(_BUILT, _CLASSES)),
)
