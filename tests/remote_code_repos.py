"""Tiny replicas of repos whose architecture only their authors' code has: keys, file names, tensor names, modules."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import make_wordpiece
from safetensors.numpy import save_file

COMMIT = "0123456789012345678901234567890123456789"
TEXTS = ["the cat sat on the mat.", "a dog", "stock market rose today!"]
# Right-padded ids of a WordPiece vocabulary of 101 tokens, whose padding token is 0.
LENGTHS = (17, 9, 4)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_repo(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], modules: Sequence[str] = ()
) -> None:
    """Write config.json, model.safetensors, a tokenizer, and modules.json with entries such as "1_Pooling"."""
    write_json(folder / "config.json", config)
    save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
    make_wordpiece(folder, 0)
    if modules:
        kinds = [name.split("_")[1] if name else "Transformer" for name in modules]
        entries = [
            {"idx": number, "name": str(number), "path": name, "type": f"sentence_transformers.models.{kind}"}
            for number, (name, kind) in enumerate(zip(modules, kinds, strict=True))
        ]
        write_json(folder / "modules.json", entries)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": 40, "do_lower_case": False})


def write_pooling(folder: Path, width: int, mode: str) -> None:
    keys = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    modes = {f"pooling_mode_{key}": key == mode for key in keys}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **modes})


def as_hub_cache(folder: Path, cache: Path, repo: str) -> None:
    """Copy a repo's files into a fabricated cache of the Hub."""
    entry = cache / f"models--{repo.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(COMMIT)
    shutil.copytree(folder, entry / "snapshots" / COMMIT)


def ragged_ids(vocabulary: int = 101, token_types: int = 0) -> dict[str, np.ndarray]:
    """Return right-padded ids, the mask and token type ids, if there are any."""
    random = np.random.default_rng(0)
    mask = (np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]).astype(np.int64)
    inputs = {"input_ids": random.integers(5, vocabulary, mask.shape) * mask, "attention_mask": mask}
    if token_types:
        inputs["token_type_ids"] = random.integers(0, token_types, mask.shape) * mask
    return inputs


def tokenized(tokenizer: Any, texts: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return the inputs that transformers' tokenizer makes of texts."""
    return {name: np.array(ids) for name, ids in tokenizer(list(texts), padding=True).items()}
