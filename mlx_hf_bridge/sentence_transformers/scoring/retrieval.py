"""Semantic search, paraphrase mining and community detection, as in sentence_transformers.util, computed by MLX.

Embeddings may be numpy arrays (memory-mapped files too), MLX arrays, torch tensors, sparse matrices or lists; scores
are float32.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.runtime.progress import ProgressBar
from mlx_hf_bridge.sentence_transformers.scoring.nearest import (
    EmbeddingRows,
    Score,
    check_positive_integer,
    cos_sim,
    find_nearest,
    resolve_score_function,
)

# The queries scored at a time in paraphrase mining.
_QUERIES_AT_A_TIME = 500
# 128 MB for the scores of a batch of rows with all rows, in community_detection.
_BYTES_AT_A_TIME = 2**27


@guarded
def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: Score = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """Return the corpus entries that are most similar to each query.

    Args:
        query_embeddings: Queries (Q, V) or (V,), any array type.
        corpus_embeddings: The corpus (N, V), any array type; a memory map is read a part at a time.
        query_chunk_size: The most queries scored at a time.
        corpus_chunk_size: The most corpus rows scored at a time; memory is bounded without it.
        top_k: The number of results for each query.
        score_function: `cos_sim`, `dot_score`, or a function of MLX arrays (Q, V) and (N, V) that returns (Q, N).

    Returns:
        For each query a list of {"corpus_id": int, "score": float}, best first; ties in order of `corpus_id`.

    Raises:
        InputError: If the widths differ, an array has more than two axes, or a number is not a positive integer.

    Example:
        >>> model = MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> corpus = model.encode(["A cat sat on the mat.", "The stock market fell."])
        >>> [hits] = semantic_search(model.encode("Where is the cat?"), corpus, top_k=1)
        >>> hits[0]["corpus_id"]
        0
    """
    queries, corpus = (
        EmbeddingRows.of(query_embeddings, "query_embeddings"),
        EmbeddingRows.of(corpus_embeddings, "corpus_embeddings"),
    )
    scores, ids = find_nearest(
        queries, corpus, top_k, resolve_score_function(score_function), query_chunk_size, corpus_chunk_size
    )
    return [
        [{"corpus_id": number, "score": score} for number, score in zip(numbers, row, strict=True)]
        for numbers, row in zip(ids.tolist(), scores.tolist(), strict=True)
    ]


@guarded
def paraphrase_mining(
    model: Any,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """Encode sentences and return the pairs that are most similar.

    Args:
        model: An `MLXSentenceTransformer`, or any object with its `encode`.
        sentences: The sentences to compare with each other.
        show_progress_bar: Whether encoding shows a progress bar.
        batch_size: The batch size of encoding.
        query_chunk_size: How many sentences are compared with all others at a time.
        corpus_chunk_size: The most sentences that they are compared with at a time; memory is bounded without it.
        max_pairs: The most pairs to return.
        top_k: How many of its most similar sentences are considered for each sentence.
        score_function: `cos_sim`, `dot_score`, or a function of MLX arrays (Q, V) and (N, V) that returns (Q, N).
        truncate_dim: The width that embeddings are truncated to; None for the model's.
        prompt_name: The name of a prompt of the model.
        prompt: The text put before each sentence.

    Returns:
        Triples [score, i, j] with i < j, each pair once, best first.

    Raises:
        InputError: If a number is not a positive integer.

    Example:
        >>> model = MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> sentences = ["The cat sits outside.", "A man plays guitar.", "The cat is outdoors."]
        >>> [[score, i, j]] = paraphrase_mining(model, sentences, max_pairs=1)
        >>> (i, j)
        (0, 2)
    """
    vectors = model.encode(
        sentences,
        prompt_name=prompt_name,
        prompt=prompt,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        truncate_dim=truncate_dim,
    )
    return paraphrase_mining_embeddings(vectors, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function)


@guarded
def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
) -> list[list[float | int]]:
    """Return the pairs of embeddings that are most similar.

    Args:
        embeddings: Embeddings (N, V), any array type.
        query_chunk_size: How many rows are compared with all others at a time.
        corpus_chunk_size: The most rows that they are compared with at a time; memory is bounded without it.
        max_pairs: The most pairs to return.
        top_k: How many of its most similar rows are considered for each row.
        score_function: `cos_sim`, `dot_score`, or a function of MLX arrays (Q, V) and (N, V) that returns (Q, N).

    Returns:
        Triples [score, i, j] with i < j, each pair once, best first; ties in order of (i, j).

    Raises:
        InputError: If a number is not a positive integer, or the array has more than two axes.
    """
    check_positive_integer("max_pairs", max_pairs)
    check_positive_integer("top_k", top_k)
    rows, score = EmbeddingRows.of(embeddings, "embeddings"), resolve_score_function(score_function)
    check_positive_integer("query_chunk_size", query_chunk_size)
    kept = _Pairs(np.zeros(0, np.float32), np.zeros(0, np.int64))
    for start in range(0, len(rows), query_chunk_size):
        part = EmbeddingRows.of(rows.read(start, start + query_chunk_size), "embeddings")
        # One more than top_k, since a row's nearest is itself.
        scores, others = find_nearest(part, rows, top_k + 1, score, _QUERIES_AT_A_TIME, corpus_chunk_size)
        own = np.arange(start, start + len(part))[:, None]
        chosen = (others != own) & (np.cumsum(others != own, axis=1) <= top_k)
        # A pair is found from both its rows: one key for both orders makes them duplicates.
        keys = np.minimum(own, others) * len(rows) + np.maximum(own, others)
        kept = kept.merge(_Pairs(scores[chosen], keys[chosen]), max_pairs)
    return kept.to_lists(len(rows))


class _Pairs:
    """The best pairs (i, j) so far: keys i * N + j, with their scores."""

    def __init__(self, scores: np.ndarray, keys: np.ndarray) -> None:
        self.scores, self.keys = scores, keys

    def merge(self, more: "_Pairs", max_pairs: int) -> "_Pairs":
        """Return the `max_pairs` best of both, each pair once, best first; ties in order of (i, j)."""
        # Duplicates go at every merge, so that memory stays bounded by max_pairs.
        keys, first = np.unique(np.concatenate([self.keys, more.keys]), return_index=True)
        scores = np.concatenate([self.scores, more.scores])[first]
        order = np.lexsort((keys, -scores))[:max_pairs]
        return _Pairs(scores[order], keys[order])

    def to_lists(self, count: int) -> list[list[float | int]]:
        """Return triples [score, i, j] for N = count rows."""
        first, second = np.divmod(self.keys, max(1, count))
        triples = zip(self.scores.tolist(), first.tolist(), second.tolist(), strict=True)
        return [[score, i, j] for score, i, j in triples]


@guarded
def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Return groups of embeddings that are similar to a common center.

    Args:
        embeddings: Embeddings (N, V), any array type.
        threshold: The smallest cosine similarity to the center of a group.
        min_community_size: The smallest size of a group, its center included.
        batch_size: How many rows are compared with all others at a time; large N lowers it.
        show_progress_bar: Whether to show a progress bar.

    Returns:
        Lists of row numbers, the center first, largest group first. A row is in one group at most.

    Raises:
        InputError: If a number is not a positive integer, or the array has more than two axes.

    Example:
        >>> import numpy as np
        >>> embeddings = np.array([[1, 0], [0.99, 0.1], [0, 1], [0.1, 0.99]])
        >>> community_detection(embeddings, threshold=0.9, min_community_size=2)
        [[0, 1], [2, 3]]
    """
    check_positive_integer("min_community_size", min_community_size)
    check_positive_integer("batch_size", batch_size)
    rows = EmbeddingRows.of(embeddings, "embeddings")
    if len(rows) < min_community_size:
        return []
    # Normalized once; after that, cosines are dot products.
    unit = run(lambda: normalize(mx.array(rows.read(0, len(rows)))))
    step = min(batch_size, max(1, _BYTES_AT_A_TIME // (4 * len(rows))))
    found: list[tuple[int, np.ndarray]] = []
    starts = range(0, len(rows), step)
    for start in ProgressBar(starts, desc="Finding clusters", disable=None if show_progress_bar else True):
        found += _neighborhoods(unit, start, start + step, threshold, min_community_size)
    return _disjoint(found, len(rows), min_community_size)


def _neighborhoods(
    unit: mx.array, start: int, end: int, threshold: float, smallest: int
) -> list[tuple[int, np.ndarray]]:
    """Return the rows from `start` to `end` with enough neighbors, each with its neighbors, most similar first."""
    scores, counts = run(lambda: _scores_and_counts(unit, start, end, threshold))
    large = np.flatnonzero(np.array(counts) >= smallest)
    if not large.size:
        return []
    # Only rows with enough neighbors leave MLX.
    chosen = np.array(run(lambda: scores[mx.array(large)]))
    # float32, as MLX compared: a float64 threshold could leave out a neighbor that was counted.
    members = [np.flatnonzero(row >= np.float32(threshold)) for row in chosen]
    return [
        (start + int(center), ids[np.argsort(-row[ids], kind="stable")])
        for center, ids, row in zip(large, members, chosen, strict=True)
    ]


def _scores_and_counts(unit: mx.array, start: int, end: int, threshold: float) -> tuple[mx.array, mx.array]:
    """Return cosines (end - start, N) of rows with all rows, and how many of each row reach the threshold."""
    scores = unit[start:end] @ unit.T
    return scores, (scores >= threshold).sum(axis=1)


def _disjoint(found: Sequence[tuple[int, np.ndarray]], count: int, smallest: int) -> list[list[int]]:
    """Return groups without common rows; larger groups take their rows first, and a smaller one keeps what is left."""
    taken = np.zeros(count, bool)
    groups: list[list[int]] = []
    for center, members in sorted(found, key=lambda group: -len(group[1])):
        free = members[~taken[members]]
        if taken[center] or len(free) < smallest:
            continue
        group = [center, *free[free != center].tolist()]
        taken[group] = True
        groups.append(group)
    return sorted(groups, key=len, reverse=True)
