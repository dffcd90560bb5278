"""Replicas of checkpoints that only their authors' code reads, and what that code computes, in NumPy.

The arithmetic is written from the papers and the public configs, in float64 and one text at a time, and imports nothing
of mlx_hf_bridge. Axes: L tokens, D hidden size, H heads, K head width.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoints import STD, make_wordpiece
from numpy_reference import gelu, layer_norm
from weight_files import write_tensors

Tensors = dict[str, np.ndarray]
# Heads are no power of two, so that slopes are filled in between.
SIZES: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 64,
    "layer_norm_eps": 1e-5, "type_vocab_size": 2, "pad_token_id": 0, "hidden_act": "gelu",
    "max_position_embeddings": 64, "torch_dtype": "float32",
}  # fmt: skip
D, F = SIZES["hidden_size"], SIZES["intermediate_size"]


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Return random tensors of the given shapes."""
    random = np.random.default_rng(seed)
    return {name: random.normal(0, STD, shape).astype(np.float32) for name, shape in shapes.items()}


def dense(name: str, outputs: int, inputs: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a linear layer."""
    return {f"{name}.weight": (outputs, inputs)} | ({f"{name}.bias": (outputs,)} if bias else {})


def norms(*names: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layer norms."""
    return {f"{name}.{leaf}": (D,) for name in names for leaf in ("weight", "bias")}


def save(folder: Path, config: Mapping[str, Any], tensors: Tensors, **files: Any) -> None:
    """Write config.json, weights, a tokenizer and JSON files by their stems."""
    make_wordpiece(folder)
    for stem, content in {"config": dict(config), **files}.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    write_tensors(folder, {name: torch.tensor(array) for name, array in tensors.items()})


def put_on_hub(folder: Path, hub: Path, name: str) -> None:
    """Make a folder the main revision of a repo in a Hub cache."""
    repo, commit = hub / f"models--{name.replace('/', '--')}", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots").mkdir()
    (repo / "snapshots" / commit).symlink_to(folder)


def code_of(repo: str) -> dict[str, str]:
    """Return JinaBERT's auto_map with its code in a repo; "" for the checkpoint's own."""
    where = f"{repo}--modeling_bert.JinaBert" if repo else "modeling_bert.JinaBert"
    classes = {"AutoModel": "Model", "AutoModelForSequenceClassification": "ForSequenceClassification"}
    return {auto: f"{where}{name}" for auto, name in classes.items()}


def norm(tensors: Tensors, name: str, x: np.ndarray) -> np.ndarray:
    """Return a layer norm's output."""
    return layer_norm(tensors, name, x, SIZES["layer_norm_eps"])


ACTIVATIONS = {"geglu": gelu, "reglu": lambda x: np.maximum(x, 0), "original": gelu}


def paper_slopes(heads: int) -> list[float]:
    """Return ALiBi's slopes as the paper's own code defines them, by recursion."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**index for index in range(heads)]
    lower = 2 ** math.floor(math.log2(heads))
    return paper_slopes(lower) + paper_slopes(2 * lower)[0::2][: heads - lower]


def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray, slopes: list[float]) -> np.ndarray:
    """Return multi-head attention of one text, (L, D) each, with ALiBi; slopes of 0 are attention without it."""
    length, width = queries.shape
    size, merged = width // len(slopes), np.zeros_like(queries)
    for head, slope in enumerate(slopes):
        part = slice(head * size, (head + 1) * size)
        scores = queries[:, part] @ keys[:, part].T / math.sqrt(size)
        scores -= slope * np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        merged[:, part] = powers / powers.sum(-1, keepdims=True) @ values[:, part]
    return merged


def embed(tensors: Tensors, ids: np.ndarray, types: np.ndarray | int, name: str = "embeddings") -> np.ndarray:
    """Return the sum of token and token type embeddings, in float64."""
    tokens = tensors[f"{name}.word_embeddings.weight"].astype(np.float64)[ids]
    return tokens + tensors[f"{name}.token_type_embeddings.weight"][types]
