"""Rows of a call in the kind that was asked for: numpy, torch where it is installed, or MLX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.modules.base import TOKEN_EMBEDDINGS, Features


def require_torch(argument: str) -> Any:
    """The torch package; BackendError names the argument that needs it where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise BackendError(
            f"{argument} gives torch tensors, and torch is not installed. pip install torch, or leave it out."
        ) from error
    return torch


def stack_rows(rows: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Rows of one width -> an array of all, which they may be already."""
    return rows if isinstance(rows, np.ndarray) else np.stack(rows)


def convert_embeddings(rows: Sequence[np.ndarray] | np.ndarray, convert_to_numpy: bool, convert_to_tensor: bool) -> Any:
    """Rows of one width -> an array or tensor of all, or a list of MLX arrays."""
    if convert_to_tensor:
        torch = require_torch("convert_to_tensor=True")
        return torch.from_numpy(stack_rows(rows)) if len(rows) else torch.tensor([])
    if convert_to_numpy:
        return stack_rows(rows) if len(rows) else np.array([])
    return [mx.array(row) for row in rows]


def to_mlx(value: Any) -> Any:
    """numpy arrays, also in lists and dicts, as MLX's."""
    if isinstance(value, np.ndarray):
        return mx.array(value)
    if isinstance(value, Mapping):
        return {name: to_mlx(inner) for name, inner in value.items()}
    return [to_mlx(inner) for inner in value] if isinstance(value, list) else value


def to_numpy(value: Any) -> np.ndarray:
    """A numpy, MLX or torch array, or nested lists of numbers -> numpy."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return np.asarray(value.float().numpy() if value.is_floating_point() else value.numpy())
    return np.asarray(value)


def tokens_and_mask(features: Features) -> tuple[mx.array, mx.array]:
    """What ragged rows are cut from: tokens (B, L, D) in float32, and which of them count (B, L)."""
    return features[TOKEN_EMBEDDINGS].astype(mx.float32), features.mask


def trim_padding(result: tuple[mx.array, mx.array]) -> list[np.ndarray]:
    """tokens (B, L, D), mask (B, L) -> each text's (L', D) up to its last token that counts."""
    tokens, mask = np.array(result[0]), np.array(result[1])
    ends = np.where(mask.any(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1), 1)
    return [row[:end].copy() for row, end in zip(tokens, ends, strict=True)]


def select_unmasked(result: tuple[mx.array, mx.array]) -> list[np.ndarray]:
    """tokens (B, L, D), mask (B, L) -> each text's (L', D), tokens that do not count left out."""
    tokens, mask = np.array(result[0]), np.array(result[1])
    return [row[seen] for row, seen in zip(tokens, mask, strict=True)]


def all_outputs(features: Features) -> dict[str, mx.array]:
    """All arrays of a batch by sentence-transformers' names, each with a row a text."""
    batch = features.batch
    named = {"input_ids": batch.ids, "attention_mask": features.mask.astype(mx.int32)}
    if features.has_token_type_ids:
        named["token_type_ids"] = mx.zeros_like(batch.ids) if batch.token_type_ids is None else batch.token_type_ids
    arrays = {name: array.astype(mx.float32) for name, array in features.arrays.items()}
    return named | arrays


def split_outputs(result: Mapping[str, mx.array]) -> list[dict[str, Any]]:
    """A dict of arrays -> a dict a text."""
    arrays = {name: np.array(array) for name, array in result.items()}
    count = len(next(iter(arrays.values())))
    return [{name: array[row].copy() for name, array in arrays.items()} | {"modality": "text"} for row in range(count)]


def features_to_numpy(make: Callable[[], Features]) -> dict[str, Any]:
    """The features that a model is given, in numpy, by transformers' names."""
    lengths: list[int] = []

    def work() -> dict[str, Any]:
        features = make()
        lengths.append(features.prompt_length)
        return all_outputs(features)

    arrays: dict[str, Any] = {name: np.array(array) for name, array in run(work).items()}
    return arrays | {"modality": "text"} | ({"prompt_length": lengths[0]} if lengths[0] else {})
