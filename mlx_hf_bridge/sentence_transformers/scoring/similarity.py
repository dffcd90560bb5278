"""Scores between vectors, in the four ways of sentence-transformers (util/similarity.py), dense and sparse.

M and N vectors, V their width.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy

_SMALLEST_NORM = 1e-12
_Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _SMALLEST_NORM)
    return unit


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a @ b.T)


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.stack([np.linalg.norm(row - b, axis=-1) for row in a])


def _manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.stack([np.abs(row - b).sum(axis=-1) for row in a])


# a (M, V), b (N, V) -> (M, N), larger = more alike.
SIMILARITIES: dict[str, _Score] = {
    "cosine": lambda a, b: _dot(_unit(a), _unit(b)),
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
# a (N, V), b (N, V) -> (N,).
_PAIRWISE: dict[str, _Score] = {
    "cosine": lambda a, b: (_unit(a) * _unit(b)).sum(axis=-1),
    "dot": lambda a, b: (a * b).sum(axis=-1),
    "euclidean": lambda a, b: -np.linalg.norm(a - b, axis=-1),
    "manhattan": lambda a, b: -np.abs(a - b).sum(axis=-1),
}


def check_similarity_name(name: Any, known: Collection[str]) -> str | None:
    """A name, a member of sentence-transformers' SimilarityFunction, or None -> the name; ConfigError for another."""
    name = getattr(name, "value", name)
    if name is not None and name not in known:
        raise ConfigError(f"similarity_fn_name={name!r} is not known; use one of {', '.join(known)}.")
    return None if name is None else str(name)


def similarity(name: str, first: Any, second: Any) -> Any:
    """(M, V) or (V,), (N, V) or (V,) -> (M, N), a torch tensor where either is one, else numpy."""
    a, b = (np.atleast_2d(_floats(given)) for given in (first, second))
    _check_widths(a, b)
    scores = SIMILARITIES[name](a, b) if len(a) else np.zeros((0, len(b)))
    return match_array_type(scores.astype(np.float32), first, second)


def pairwise_similarity(name: str, first: Any, second: Any) -> Any:
    """(N, V), (N, V) -> (N,); of two single vectors one number."""
    a, b = _floats(first), _floats(second)
    _check_widths(a, b)
    if a.ndim == b.ndim and len(a) != len(b):
        raise InputError(f"got {len(a)} and {len(b)} vectors, expected as many of the first as of the second.")
    return match_array_type(np.asarray(_PAIRWISE[name](a, b)).astype(np.float32), first, second)


def is_torch(value: Any) -> bool:
    """A torch tensor, or a list that starts with one."""
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return type(first).__module__.partition(".")[0] == "torch"


def _floats(given: Any) -> np.ndarray:
    if isinstance(given, (list, tuple)) and given and not isinstance(given[0], (int, float)):
        given = np.stack([to_numpy(one) for one in given])
    array = to_numpy(given)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _check_widths(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim > 2 or b.ndim > 2 or a.shape[-1] != b.shape[-1]:
        raise InputError(f"got vectors of the shapes {a.shape} and {b.shape}, expected (texts, width) of one width.")


def match_array_type(scores: np.ndarray, *inputs: Any) -> Any:
    """Return the scores as a torch tensor if any of the inputs is one, else unchanged."""
    if not any(is_torch(one) for one in inputs):
        return scores
    import torch

    return torch.from_numpy(scores)
