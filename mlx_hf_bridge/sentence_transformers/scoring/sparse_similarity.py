"""Scores between sparse vectors, never made dense as a whole; reference: sentence_transformers/util/similarity.py.

M and N vectors, V their width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.scoring.coordinates import CooMatrix, to_coo, to_sparse_array

_Score = Callable[[Any, Any], np.ndarray]


def _unit(a: Any) -> Any:
    norms = np.sqrt(np.asarray(a.multiply(a).sum(axis=1)).ravel())
    scaled = a.multiply(np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0)[:, None])
    return scaled.tocsr()


def _squares(a: Any) -> np.ndarray:
    return np.asarray(a.multiply(a).sum(axis=1)).ravel()


def _dot(a: Any, b: Any) -> np.ndarray:
    return np.asarray((a @ b.T).toarray())


def _euclidean(a: Any, b: Any) -> np.ndarray:
    squared = _squares(a)[:, None] - 2 * _dot(a, b) + _squares(b)[None]
    return np.asarray(-np.sqrt(np.maximum(squared, 0)))


def _manhattan(a: Any, b: Any) -> np.ndarray:
    """Each row's distance is that from 0, put right in the columns where the row is not 0."""
    from_zero = np.asarray(abs(b).sum(axis=1)).ravel()
    by_column = b.tocsc()
    scores = np.empty((a.shape[0], b.shape[0]), np.float32)
    for index in range(a.shape[0]):
        start, end = a.indptr[index], a.indptr[index + 1]
        there = by_column[:, a.indices[start:end]].toarray()
        scores[index] = -(from_zero + (np.abs(there - a.data[start:end]) - np.abs(there)).sum(axis=1))
    return scores


_ALL: dict[str, _Score] = {
    "cosine": lambda a, b: _dot(_unit(a), _unit(b)),
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
_PAIRWISE: dict[str, _Score] = {
    "cosine": lambda a, b: np.asarray(_unit(a).multiply(_unit(b)).sum(axis=1)).ravel(),
    "dot": lambda a, b: np.asarray(a.multiply(b).sum(axis=1)).ravel(),
    "euclidean": lambda a, b: -np.sqrt(_squares(a - b)),
    "manhattan": lambda a, b: -np.asarray(abs(a - b).sum(axis=1)).ravel(),
}


def sparse_similarity(name: str, first: Any, second: Any) -> Any:
    """(M, V), (N, V) -> (M, N); torch where either is a torch tensor, else numpy."""
    a, b = to_coo(first), to_coo(second)
    return _scored(_ALL[name], a, b)


def sparse_pairwise_similarity(name: str, first: Any, second: Any) -> Any:
    """(N, V), (N, V) -> (N,); of two single vectors one number."""
    a, b = to_coo(first), to_coo(second)
    if a.shape[0] != b.shape[0]:
        raise InputError(f"got {a.shape[0]} and {b.shape[0]} vectors, expected as many of the first as of the second.")
    scores = _scored(_PAIRWISE[name], a, b)
    return scores[0] if a.is_vector and b.is_vector else scores


def _scored(score: _Score, a: CooMatrix, b: CooMatrix) -> Any:
    if a.shape[1] != b.shape[1]:
        raise InputError(f"got vectors of the widths {a.shape[1]} and {b.shape[1]}, expected the same.")
    whole = [CooMatrix(one.rows, one.columns, one.values, one.shape) for one in (a, b)]
    scores = np.asarray(score(to_sparse_array(whole[0], None), to_sparse_array(whole[1], None)), np.float32)
    if not (a.from_torch or b.from_torch):
        return scores
    import torch

    return torch.from_numpy(scores)
