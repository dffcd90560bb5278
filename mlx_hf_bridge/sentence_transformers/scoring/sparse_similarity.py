"""The four similarities of sentence-transformers for sparse embeddings, which never become dense as a whole.

Reference: sentence_transformers/util/similarity.py. Shapes: M and N embeddings, V their width.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.scoring.coordinates import CooMatrix, to_coo, to_sparse_array

_Score = Callable[[Any, Any], np.ndarray]


def _unit(a: Any) -> Any:
    norms = np.sqrt(np.asarray(a.multiply(a).sum(axis=1)).ravel())
    # Empty rows have norm 0 and stay empty; the inner where keeps numpy from dividing by 0.
    scaled = a.multiply(np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0)[:, None])
    return scaled.tocsr()


def _squares(a: Any) -> np.ndarray:
    return np.asarray(a.multiply(a).sum(axis=1)).ravel()


def _dot(a: Any, b: Any) -> np.ndarray:
    return np.asarray((a @ b.T).toarray())


def _euclidean(a: Any, b: Any) -> np.ndarray:
    squared = _squares(a)[:, None] - 2 * _dot(a, b) + _squares(b)[None]
    # Rounding can make the difference of equal embeddings slightly negative.
    return np.asarray(-np.sqrt(np.maximum(squared, 0)))


def _manhattan(a: Any, b: Any) -> np.ndarray:
    # |a - b| summed is |b| summed, corrected in the columns where the row of a is nonzero: those of b are read as
    # they are needed, and nothing (M, N, V) is built.
    from_zero = np.asarray(abs(b).sum(axis=1)).ravel()
    by_column = b.tocsc()
    scores = np.empty((a.shape[0], b.shape[0]), np.float32)
    for index in range(a.shape[0]):
        start, end = a.indptr[index], a.indptr[index + 1]
        selected = by_column[:, a.indices[start:end]].toarray()
        scores[index] = -(from_zero + (np.abs(selected - a.data[start:end]) - np.abs(selected)).sum(axis=1))
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
    """Return the similarity of every pair of sparse embeddings.

    Args:
        name: "cosine", "dot", "euclidean" or "manhattan".
        first: Embeddings (M, V) or (V,) of torch, scipy or numpy, or a list of embeddings (V,).
        second: Embeddings (N, V) or (V,).

    Returns:
        Scores (M, N), float32: a torch tensor if either input was one, else numpy.

    Raises:
        InputError: If the widths differ.
    """
    a, b = to_coo(first), to_coo(second)
    return _apply(_ALL[name], a, b)


def sparse_pairwise_similarity(name: str, first: Any, second: Any) -> Any:
    """Return the similarity of each sparse embedding with the one at the same index.

    Args:
        name: "cosine", "dot", "euclidean" or "manhattan".
        first: Embeddings (N, V) or (V,) of torch, scipy or numpy, or a list of embeddings (V,).
        second: Embeddings (N, V) or (V,).

    Returns:
        Scores (N,), float32, or one number for two single embeddings: a torch tensor if either input was one, else
        numpy.

    Raises:
        InputError: If the widths or the numbers of embeddings differ.
    """
    a, b = to_coo(first), to_coo(second)
    if a.shape[0] != b.shape[0]:
        raise InputError(
            f"got {a.shape[0]} and {b.shape[0]} embeddings, expected as many of both. Use similarity for every pair."
        )
    scores = _apply(_PAIRWISE[name], a, b)
    return scores[0] if a.is_vector and b.is_vector else scores


def _apply(score: _Score, a: CooMatrix, b: CooMatrix) -> Any:
    if a.shape[1] != b.shape[1]:
        raise InputError(
            f"got embeddings of widths {a.shape[1]} and {b.shape[1]}, expected one width. Encode both with one model."
        )
    # A vector becomes a matrix of one row, which scipy's products need.
    whole = [CooMatrix(one.rows, one.columns, one.values, one.shape) for one in (a, b)]
    scores = np.asarray(score(to_sparse_array(whole[0], None), to_sparse_array(whole[1], None)), np.float32)
    if not (a.from_torch or b.from_torch):
        return scores
    import torch

    return torch.from_numpy(scores)
