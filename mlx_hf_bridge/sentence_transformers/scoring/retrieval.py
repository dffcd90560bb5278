"""Search, paraphrase mining and communities among vectors, as in sentence_transformers.util, computed by MLX.

Vectors are taken from numpy (memory-mapped files too), MLX, torch, sparse matrices or lists; scores are float32.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from tqdm.auto import tqdm

from mlx_hf_bridge.inference.pooling import normalized
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.scoring.nearest import (
    EmbeddingRows,
    Score,
    check_positive_integer,
    cos_sim,
    find_nearest,
    resolve_score_function,
)

# In paraphrase mining, whose memory grows with it.
_QUERIES_AT_A_TIME = 500
# Scores of a batch against all, in community_detection.
_BYTES_AT_A_TIME = 2**27


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: Score = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """The top_k best of the corpus for each query -> a list a query of {"corpus_id", "score"}, best first.

    score_function: cos_sim, dot_score, or a function of MLX arrays (Q, V), (N, V) -> (Q, N). The chunk sizes are upper
    bounds: memory is bounded without them. InputError for vectors of unlike widths.
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
    """Encode the sentences -> the pairs that are most alike, as paraphrase_mining_embeddings gives them."""
    vectors = model.encode(
        sentences,
        prompt_name=prompt_name,
        prompt=prompt,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        truncate_dim=truncate_dim,
    )
    return paraphrase_mining_embeddings(vectors, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function)


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Score = cos_sim,
) -> list[list[float | int]]:
    """Each vector's top_k neighbours -> at most max_pairs of [score, i, j], i < j, each pair once, best first."""
    check_positive_integer("max_pairs", max_pairs)
    check_positive_integer("top_k", top_k)
    rows, score = EmbeddingRows.of(embeddings, "embeddings"), resolve_score_function(score_function)
    check_positive_integer("query_chunk_size", query_chunk_size)
    kept = _Pairs(np.zeros(0, np.float32), np.zeros(0, np.int64))
    for start in range(0, len(rows), query_chunk_size):
        part = EmbeddingRows.of(rows.read(start, start + query_chunk_size), "embeddings")
        scores, others = find_nearest(part, rows, top_k + 1, score, _QUERIES_AT_A_TIME, corpus_chunk_size)
        own = np.arange(start, start + len(part))[:, None]
        chosen = (others != own) & (np.cumsum(others != own, axis=1) <= top_k)
        keys = np.minimum(own, others) * len(rows) + np.maximum(own, others)
        kept = kept.joined(_Pairs(scores[chosen], keys[chosen]), max_pairs)
    return kept.as_lists(len(rows))


class _Pairs:
    """Pairs (i, j) as the keys i x N + j, with their scores; the best of them."""

    def __init__(self, scores: np.ndarray, keys: np.ndarray) -> None:
        self.scores, self.keys = scores, keys

    def joined(self, more: "_Pairs", most: int) -> "_Pairs":
        """Both, each pair once, the `most` best of them, best first; ties by number."""
        keys, first = np.unique(np.concatenate([self.keys, more.keys]), return_index=True)
        scores = np.concatenate([self.scores, more.scores])[first]
        order = np.lexsort((keys, -scores))[:most]
        return _Pairs(scores[order], keys[order])

    def as_lists(self, count: int) -> list[list[float | int]]:
        first, second = np.divmod(self.keys, max(1, count))
        triples = zip(self.scores.tolist(), first.tolist(), second.tolist(), strict=True)
        return [[score, i, j] for score, i, j in triples]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups whose cosine to a centre is `threshold` or more -> lists of row numbers, the centre first, largest first.

    A row is in one group at most; groups of fewer than min_community_size rows are left out.
    """
    check_positive_integer("min_community_size", min_community_size)
    check_positive_integer("batch_size", batch_size)
    rows = EmbeddingRows.of(embeddings, "embeddings")
    if len(rows) < min_community_size:
        return []
    unit = run(lambda: normalized(mx.array(rows.read(0, len(rows)))))
    step = min(batch_size, max(1, _BYTES_AT_A_TIME // (4 * len(rows))))
    found: list[tuple[int, np.ndarray]] = []
    starts = range(0, len(rows), step)
    for start in tqdm(starts, desc="Finding clusters", disable=None if show_progress_bar else True):
        found += _neighbourhoods(unit, start, start + step, threshold, min_community_size)
    return _apart(found, len(rows), min_community_size)


def _neighbourhoods(
    unit: mx.array, start: int, end: int, threshold: float, smallest: int
) -> list[tuple[int, np.ndarray]]:
    """Rows with enough neighbours, and these, nearest first."""
    scores, counts = run(lambda: _scores_and_counts(unit, start, end, threshold))
    large = np.flatnonzero(np.array(counts) >= smallest)
    if not large.size:
        return []
    chosen = np.array(run(lambda: scores[mx.array(large)]))
    members = [np.flatnonzero(row >= np.float32(threshold)) for row in chosen]
    return [
        (start + int(centre), ids[np.argsort(-row[ids], kind="stable")])
        for centre, ids, row in zip(large, members, chosen, strict=True)
    ]


def _scores_and_counts(unit: mx.array, start: int, end: int, threshold: float) -> tuple[mx.array, mx.array]:
    scores = unit[start:end] @ unit.T
    return scores, (scores >= threshold).sum(axis=1)


def _apart(found: Sequence[tuple[int, np.ndarray]], count: int, smallest: int) -> list[list[int]]:
    """Larger groups first take their members; what is left of a smaller one counts if it is large enough."""
    taken = np.zeros(count, bool)
    groups: list[list[int]] = []
    for centre, members in sorted(found, key=lambda group: -len(group[1])):
        free = members[~taken[members]]
        if taken[centre] or len(free) < smallest:
            continue
        group = [centre, *free[free != centre].tolist()]
        taken[group] = True
        groups.append(group)
    return sorted(groups, key=len, reverse=True)
