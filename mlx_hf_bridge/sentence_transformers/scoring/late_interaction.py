"""MaxSim, the score of late interaction: each token of a query is matched with the most similar token of a document.

Reference: sentence_transformers/util/similarity.py. Shapes: M queries, N documents, T tokens of all of them, D width.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy
from mlx_hf_bridge.sentence_transformers.scoring.similarity import match_array_type

logger = logging.getLogger(__name__)

# As in sentence-transformers: below every real score, and still finite in float32 after scaling and squaring.
_EMPTY_SCORE = -1e9
# As in sentence-transformers: 100 million float32 dot products are 400 MB.
_CHUNK_ELEMENTS = 100_000_000

LATE_SIMILARITIES = ("maxsim", "meanmaxsim")


@guarded
def maxsim(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: Any = None,
) -> Any:
    """Return the MaxSim score of every query with every document.

    The score is the sum, over the tokens of the query, of the largest dot product with any token of the document.

    Args:
        a: Queries: a list of (tokens, D), a padded array (M, tokens, D), or one query (tokens, D).
        b: Documents, in any of these forms.
        a_mask: (M, tokens), which tokens of the queries count; without it all do, except rows of zeros in a padded
            array.
        b_mask: (N, tokens), which tokens of the documents count; without it all do, except rows of zeros in a padded
            array.
        chunk_elements: The most dot products computed at a time, 100 million by default.
        length_normalize: Whether scores are divided by the number of the query's tokens.
        device: Accepted for sentence-transformers' signature and ignored.

    Returns:
        Scores (M, N), float32: a torch tensor if either input was one, else numpy. A document without tokens has -1e9.

    Raises:
        InputError: If an array has no two axes for each text, or a mask does not fit.
    """
    queries, documents = _token_vectors(a, a_mask, "a_mask"), _token_vectors(b, b_mask, "b_mask")
    scores = np.zeros((len(queries), len(documents)), np.float32)
    for row, query in enumerate(queries):
        # Dot products for each token of a document.
        budget = (chunk_elements or _CHUNK_ELEMENTS) // max(1, len(query))
        for start, end in _chunks([len(document) for document in documents], budget):
            scores[row, start:end] = _scores(query, documents[start:end])
    if length_normalize:
        scores /= np.array([max(1, len(query)) for query in queries], np.float32)[:, None]
    return match_array_type(scores, a, b)


@guarded
def maxsim_pairwise(
    a: Any,
    b: Any,
    a_mask: Any = None,
    b_mask: Any = None,
    chunk_elements: int | None = None,
    length_normalize: bool = False,
    device: Any = None,
) -> Any:
    """Return the MaxSim score of each query with the document at the same index.

    Args:
        a: Queries: a list of (tokens, D), a padded array (N, tokens, D), or one query (tokens, D).
        b: As many documents, in any of these forms.
        a_mask: (N, tokens), which tokens of the queries count; without it all do, except rows of zeros in a padded
            array.
        b_mask: (N, tokens), which tokens of the documents count; without it all do, except rows of zeros in a padded
            array.
        chunk_elements: Accepted for sentence-transformers' signature: a pair is computed at a time, within any budget.
        length_normalize: Whether scores are divided by the number of the query's tokens.
        device: Accepted for sentence-transformers' signature and ignored.

    Returns:
        Scores (N,), float32: a torch tensor if either input was one, else numpy. A document without tokens has -1e9.

    Raises:
        InputError: If the numbers differ, an array has no two axes for each text, or a mask does not fit.
    """
    queries, documents = _token_vectors(a, a_mask, "a_mask"), _token_vectors(b, b_mask, "b_mask")
    if len(queries) != len(documents):
        raise InputError(
            f"got {len(queries)} queries and {len(documents)} documents, expected as many of both. "
            "Use maxsim for the scores of every pair."
        )
    scores = np.array([_scores(one, [other])[0] for one, other in zip(queries, documents, strict=True)], np.float32)
    if length_normalize:
        scores /= np.array([max(1, len(query)) for query in queries], np.float32)
    return match_array_type(scores, a, b)


def _scores(query: np.ndarray, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Return the scores (N,) of one query (tokens, D) with each of N documents."""
    lengths = np.array([len(document) for document in documents])
    scores = np.full(len(documents), _EMPTY_SCORE, np.float32)
    if not lengths.all():
        logger.warning(
            "%d documents have no unmasked token; their score is %g", int((lengths == 0).sum()), _EMPTY_SCORE
        )
    if not lengths.any():
        return scores
    nonempty = np.flatnonzero(lengths)
    # reduceat has no empty segments: equal starts would give a single element, hence only documents with tokens.
    starts = np.concatenate([[0], np.cumsum(lengths[nonempty])[:-1]])
    # One matmul for all documents of a chunk, without padding them to one length.
    similarities = query @ np.concatenate([document for document in documents if len(document)]).T  # (tokens, T)
    scores[nonempty] = np.maximum.reduceat(similarities, starts, axis=1).sum(axis=0) if len(query) else 0
    return scores


def _chunks(lengths: Sequence[int], budget: int) -> Iterator[tuple[int, int]]:
    """Yield ranges (start, end) of documents with at most `budget` tokens each, or one document."""
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > budget:
            yield start, index
            start, total = index, 0
        total += length
    if lengths:
        yield start, len(lengths)


def _token_vectors(embeddings: Any, mask: Any, name: str) -> list[np.ndarray]:
    """Return the vectors of each text's tokens that count, (tokens, D) float32."""
    padded = False
    if isinstance(embeddings, (list, tuple)):
        arrays = [to_numpy(one) for one in embeddings]
    else:
        whole = to_numpy(embeddings)
        padded = whole.ndim == 3
        arrays = list(whole) if padded else [whole]
        mask = mask if padded or mask is None else np.atleast_2d(to_numpy(mask))
    if any(one.ndim != 2 for one in arrays):
        raise InputError(
            f"got arrays with {[one.ndim for one in arrays][:4]} axes, expected (tokens, width) for each text."
        )
    vectors = [np.asarray(one, np.float32) for one in arrays]
    if mask is None:
        # sentence-transformers pads with zero vectors, so a row of zeros is padding.
        return [one[one.any(axis=-1)] for one in vectors] if padded else vectors
    masks = [to_numpy(one).astype(bool) for one in mask]
    if len(masks) != len(vectors) or not all(map(_fits, masks, vectors)):
        raise InputError(
            f"{name} does not fit the embeddings: expected a row for each text, with a value for each token. "
            "Correct it or leave it out."
        )
    return [one[kept[: len(one)]] for one, kept in zip(vectors, masks, strict=True)]


def _fits(mask: np.ndarray, vectors: np.ndarray) -> bool:
    """Return whether a mask has a value for every token, and after them nothing but padding."""
    return len(mask) >= len(vectors) and not mask[len(vectors) :].any()
