"""Encode texts with a bare forward pass: tokenized, sorted by length, in batches of 32."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
_LENGTH = 512  # BERT's, used without sentence_bert_config.json
Inputs = Mapping[str, np.ndarray]


def encoder(folder: str, embed: Callable[[Inputs], np.ndarray]) -> Callable[[list[str]], np.ndarray]:
    """Return a function of texts, given `embed`: ids, mask and token type ids (B, L) to embeddings (B, D)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    length = _max_length(folder)

    def encode(texts: list[str]) -> np.ndarray:
        rows: dict[str, list[Any]] = dict(tokenizer(texts, truncation=True, max_length=length))
        order = sorted(range(len(texts)), key=lambda number: -len(rows["input_ids"][number]))
        found: list[np.ndarray] = []
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            batch = {name: [values[number] for number in chosen] for name, values in rows.items()}
            found.append(embed(tokenizer.pad(batch, return_tensors="np")))
        return np.concatenate(found)[np.argsort(order)]

    return encode


def mean(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the normalized mean (B, D) of hidden states (B, L, D) where the mask (B, L) is 1."""
    # As a matmul of (1, L) and (L, D), which reads the hidden states once.
    summed: np.ndarray = np.matmul(mask[:, None].astype(hidden.dtype), hidden)[:, 0]
    return summed / np.linalg.norm(summed, axis=1, keepdims=True)


def _max_length(folder: str) -> int:
    config = Path(folder) / "sentence_bert_config.json"
    return int(json.loads(config.read_text())["max_seq_length"]) if config.is_file() else _LENGTH
