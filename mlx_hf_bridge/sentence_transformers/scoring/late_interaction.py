"""MaxSim: a query's tokens each take their best match among a document's tokens.

Reference: sentence_transformers/util/similarity.py. M queries, N documents, T tokens of all of them, D width.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy
from mlx_hf_bridge.sentence_transformers.scoring.similarity import match_array_type

logger = logging.getLogger(__name__)

# Of a document without tokens: below every real score, and still a float32 that can be squared.
_EMPTY_SCORE = -1e9
_CHUNK_ELEMENTS = 100_000_000

LATE_SIMILARITIES = ("maxsim", "meanmaxsim")


def maxsim(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: Any = None,
) -> Any:
    """Queries and documents, each a list of (tokens, D), a padded (N, tokens, D) or one (tokens, D) -> scores (M, N).

    The sum over a query's tokens of the largest product with any of the document's. a_mask, b_mask (N, tokens): which
    count; without them rows of zeros in a padded array do not. length_normalize: divided by the query's tokens.
    chunk_elements: the most products at a time. torch where either was, else numpy; -1e9 for empty documents.
    """
    queries, documents = _ragged(a, a_mask, "a_mask"), _ragged(b, b_mask, "b_mask")
    scores = np.zeros((len(queries), len(documents)), np.float32)
    for row, query in enumerate(queries):
        budget = (chunk_elements or _CHUNK_ELEMENTS) // max(1, len(query))
        for start, end in _chunks([len(document) for document in documents], budget):
            scores[row, start:end] = _scored(query, documents[start:end])
    if length_normalize:
        scores /= np.array([max(1, len(query)) for query in queries], np.float32)[:, None]
    return match_array_type(scores, a, b)


def maxsim_pairwise(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: Any = None,
) -> Any:
    """As many queries as documents -> the score (N,) of each with the one at its place."""
    queries, documents = _ragged(a, a_mask, "a_mask"), _ragged(b, b_mask, "b_mask")
    if len(queries) != len(documents):
        raise InputError(f"got {len(queries)} queries and {len(documents)} documents, expected as many of both.")
    scores = np.array([_scored(one, [other])[0] for one, other in zip(queries, documents, strict=True)], np.float32)
    if length_normalize:
        scores /= np.array([max(1, len(query)) for query in queries], np.float32)
    return match_array_type(scores, a, b)


def _scored(query: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """query (tokens, D), documents -> their scores (N,)."""
    lengths = np.array([len(document) for document in documents])
    scores = np.full(len(documents), _EMPTY_SCORE, np.float32)
    if not lengths.all():
        logger.warning("%d documents have no token that counts, and score %g", int((lengths == 0).sum()), _EMPTY_SCORE)
    if not lengths.any():
        return scores
    there = np.flatnonzero(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths[there])[:-1]])
    products = query @ np.concatenate([document for document in documents if len(document)]).T  # (tokens, T)
    scores[there] = np.maximum.reduceat(products, starts, axis=1).sum(axis=0) if len(query) else 0
    return scores


def _chunks(lengths: Sequence[int], budget: int) -> Iterator[tuple[int, int]]:
    """Ranges of documents with at most `budget` tokens each, or one document."""
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > budget:
            yield start, index
            start, total = index, 0
        total += length
    if lengths:
        yield start, len(lengths)


def _ragged(given: Any, mask: Any, name: str) -> list[np.ndarray]:
    """Each item's vectors that count, (tokens, D) float32."""
    padded = False
    if isinstance(given, (list, tuple)):
        arrays = [to_numpy(one) for one in given]
    else:
        whole = to_numpy(given)
        padded = whole.ndim == 3
        arrays = list(whole) if padded else [whole]
        mask = mask if padded or mask is None else np.atleast_2d(to_numpy(mask))
    if any(one.ndim != 2 for one in arrays):
        raise InputError(f"got arrays of {[one.ndim for one in arrays][:4]} axes, expected (tokens, width) each.")
    vectors = [np.asarray(one, np.float32) for one in arrays]
    if mask is None:
        return [one[one.any(axis=-1)] for one in vectors] if padded else vectors
    masks = [to_numpy(one).astype(bool) for one in mask]
    if len(masks) != len(vectors) or not all(map(_fits, masks, vectors)):
        raise InputError(f"{name} does not fit: expected a row a text, with a value a token. Leave it out, or mend it.")
    return [one[seen[: len(one)]] for one, seen in zip(vectors, masks, strict=True)]


def _fits(mask: np.ndarray, vectors: np.ndarray) -> bool:
    """Whether there is a value for every token, and no more than padding after them."""
    return len(mask) >= len(vectors) and not mask[len(vectors) :].any()
