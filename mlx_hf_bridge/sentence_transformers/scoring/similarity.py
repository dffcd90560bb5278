"""The four similarities of sentence-transformers (util/similarity.py) for dense embeddings: cosine, dot and distances.

Shapes: M and N embeddings, V their width. Larger is more similar; distances are negative.
"""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy

# The floor of a norm that is divided by, as in torch's normalize: zero vectors stay zero.
_MIN_NORM = 1e-12
_Score = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _unit(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), _MIN_NORM)
    return unit


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a @ b.T)


def _euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # Row by row, since all differences at once would be an array (M, N, V). Differences and not expanded squares, which
    # would lose the digits of close embeddings.
    return -np.stack([np.linalg.norm(row - b, axis=-1) for row in a])


def _manhattan(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return -np.stack([np.abs(row - b).sum(axis=-1) for row in a])


# a (M, V), b (N, V) -> (M, N).
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
    """Return the name of a similarity, checked.

    Args:
        name: A name, a member of sentence-transformers' SimilarityFunction, or None.
        known: The names that are valid.

    Returns:
        The name as a string, or None.

    Raises:
        ConfigError: If the name is not in `known`.
    """
    # sentence-transformers' SimilarityFunction is an enum.
    name = getattr(name, "value", name)
    if name is not None and (not isinstance(name, str) or name not in known):
        raise ConfigError(f"similarity_fn_name={name!r} is not supported; use one of {', '.join(known)}.")
    return None if name is None else str(name)


def similarity(name: str, first: Any, second: Any) -> Any:
    """Return the similarity of every pair.

    Args:
        name: "cosine", "dot", "euclidean" or "manhattan".
        first: Embeddings (M, V) or (V,), any array type or a list.
        second: Embeddings (N, V) or (V,).

    Returns:
        Scores (M, N), float32: a torch tensor if either input was one, else numpy.

    Raises:
        InputError: If the widths differ, or an array has more than two axes.
    """
    a, b = (np.atleast_2d(_to_float_array(one)) for one in (first, second))
    _check_widths(a, b)
    # np.stack takes no empty list.
    scores = SIMILARITIES[name](a, b) if len(a) else np.zeros((0, len(b)))
    return match_array_type(scores.astype(np.float32), first, second)


def pairwise_similarity(name: str, first: Any, second: Any) -> Any:
    """Return the similarity of each embedding with the one at the same index.

    Args:
        name: "cosine", "dot", "euclidean" or "manhattan".
        first: Embeddings (N, V) or (V,), any array type or a list.
        second: Embeddings (N, V) or (V,).

    Returns:
        Scores (N,), float32, or one number of shape () for two single embeddings: a torch tensor if either input was
        one, else numpy.

    Raises:
        InputError: If the widths or the numbers of embeddings differ, or an array has more than two axes.
    """
    a, b = _to_float_array(first), _to_float_array(second)
    _check_widths(a, b)
    if a.ndim == b.ndim and len(a) != len(b):
        raise InputError(
            f"got {len(a)} and {len(b)} embeddings, expected as many of both. Use similarity for every pair."
        )
    return match_array_type(np.asarray(_PAIRWISE[name](a, b)).astype(np.float32), first, second)


def is_torch(value: Any) -> bool:
    """Return whether a value is a torch tensor, or a list that starts with one.

    Args:
        value: Any value.

    Returns:
        True for torch; torch is not imported.
    """
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    return type(first).__module__.partition(".")[0] == "torch"


def _to_float_array(embeddings: Any) -> np.ndarray:
    """Return embeddings as a numpy array, float64 if they were, else float32."""
    if isinstance(embeddings, (list, tuple)) and embeddings and not isinstance(embeddings[0], (int, float)):
        embeddings = np.stack([to_numpy(one) for one in embeddings])
    array = to_numpy(embeddings)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _check_widths(a: np.ndarray, b: np.ndarray) -> None:
    if a.ndim > 2 or b.ndim > 2 or a.shape[-1] != b.shape[-1]:
        raise InputError(f"got embeddings of shapes {a.shape} and {b.shape}, expected (texts, width) of one width.")


def match_array_type(scores: np.ndarray, *inputs: Any) -> Any:
    """Return scores as a torch tensor if any of the inputs is one, else unchanged.

    Args:
        scores: A numpy array.
        inputs: What the scores were computed from.

    Returns:
        The scores as a numpy array or torch tensor.
    """
    if not any(is_torch(one) for one in inputs):
        return scores
    # Imported only for callers who passed a tensor, so it is loaded already.
    import torch

    return torch.from_numpy(scores)
