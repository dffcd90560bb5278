"""Scores between vectors, in the four ways of sentence-transformers (util/similarity.py).

M and N vectors, V their width.
"""

from collections.abc import Callable

import numpy as np

from mlx_hf_bridge.errors import ConfigError


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _dot(_unit(a), _unit(b))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a @ b.T)


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.stack([np.linalg.norm(row - b, axis=-1) for row in a])


def _manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.stack([np.abs(row - b).sum(axis=-1) for row in a])


# a (M, V), b (N, V) -> (M, N), larger = more alike.
SIMILARITIES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}


def similarity_named(name: str | None) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """config_sentence_transformers.json's similarity_fn_name (None = cosine) -> the function."""
    if (name or "cosine") not in SIMILARITIES:
        raise ConfigError(f"similarity_fn_name={name!r} is not known; use one of {', '.join(SIMILARITIES)}.")
    return SIMILARITIES[name or "cosine"]
