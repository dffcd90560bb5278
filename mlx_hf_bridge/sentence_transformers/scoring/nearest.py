"""The rows of a corpus with the best scores for each query, in memory that does not grow with either number.

Shapes: Q queries, N corpus rows, V embedding width, K results for each query.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy

Score = Callable[[mx.array, mx.array], mx.array]

# 64 MB, which bounds both the scores computed at a time and the corpus rows that they belong to; larger chunks use
# more memory and are no faster.
_BYTES_AT_A_TIME = 2**26
# Scores are ranked by the maxima of blocks of 64 columns first, so that only the best blocks are partitioned.
_BLOCK = 64


@guarded
def dot_score(a: mx.array, b: mx.array) -> mx.array:
    """Return the dot product of every pair.

    Args:
        a: MLX array of shape (Q, V).
        b: MLX array of shape (N, V).

    Returns:
        Dot products (Q, N), in the dtype of the inputs.
    """
    return a @ b.T


@guarded
def cos_sim(a: mx.array, b: mx.array) -> mx.array:
    """Return the cosine similarity of every pair.

    Args:
        a: MLX array of shape (Q, V).
        b: MLX array of shape (N, V).

    Returns:
        Cosine similarities (Q, N), float32; 0 for rows of zeros.

    Example:
        >>> import mlx.core as mx
        >>> cos_sim(mx.array([[1.0, 0.0]]), mx.array([[2.0, 0.0], [0.0, 3.0]]))
        array([[1, 0]], dtype=float32)
    """
    return dot_score(normalize(a), normalize(b))


_BY_NAME: dict[str, Score] = {"cos_sim": cos_sim, "pytorch_cos_sim": cos_sim, "dot_score": dot_score}


def resolve_score_function(function: Callable[..., Any]) -> Score:
    """Return the score function to use for MLX arrays.

    Args:
        function: A function of MLX arrays, or cos_sim, pytorch_cos_sim or dot_score of sentence-transformers.

    Returns:
        The function itself, or the one here of the same name for one of sentence-transformers.

    Raises:
        InputError: If it is another function of sentence-transformers, which needs torch tensors.
    """
    # By name, so that sentence-transformers, and torch with it, need not be imported.
    if str(getattr(function, "__module__", "")).partition(".")[0] != "sentence_transformers":
        return function
    if function.__name__ not in _BY_NAME:
        raise InputError(
            f"score_function={function.__name__} of sentence-transformers works on torch tensors; expected "
            f"{', '.join(_BY_NAME)}, or a function of two MLX arrays, (Q, V) and (N, V), that returns (Q, N)."
        )
    return _BY_NAME[function.__name__]


@dataclass(frozen=True)
class EmbeddingRows:
    """Embeddings (N, V) of any array type, read a range of rows at a time.

    Args:
        source: A numpy array or memory map, MLX array, torch tensor or sparse matrix.
        shape: (N, V).
    """

    source: Any
    shape: tuple[int, int]

    @classmethod
    def of(cls, source: Any, name: str) -> "EmbeddingRows":
        """Wrap embeddings of any array type.

        Args:
            source: An array (N, V) or (V,), or a list of embeddings (V,).
            name: The argument's name, for the error.

        Returns:
            The rows; a single embedding is one row.

        Raises:
            InputError: If the array has more than two axes.
        """
        if isinstance(source, (list, tuple)):
            source = np.stack([to_numpy(one) for one in source]) if source else np.zeros((0, 0), np.float32)
        shape = tuple(getattr(source, "shape", ()))
        if len(shape) == 1 and shape[0]:
            source, shape = source[None], (1, *shape)
        if shape == (0,):
            shape = (0, 0)
        if len(shape) != 2:
            raise InputError(f"{name} has the shape {shape}, expected (texts, width). Pass what encode returns.")
        return cls(source, (int(shape[0]), int(shape[1])))

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, end: int) -> np.ndarray:
        """Read rows as float32.

        Args:
            start: The first row.
            end: The row after the last; one beyond the end stops at the end.

        Returns:
            A numpy array (end - start, V).
        """
        end = min(end, len(self))
        if getattr(self.source, "is_sparse", False):
            import torch

            # torch cannot slice sparse tensors.
            return to_numpy(self.source.index_select(0, torch.arange(start, end)).to_dense()).astype(np.float32)
        part = self.source[start:end]
        if type(part).__module__.startswith("scipy.sparse"):
            part = part.toarray()
        return np.asarray(to_numpy(part), np.float32)


def find_nearest(
    queries: EmbeddingRows,
    corpus: EmbeddingRows,
    top_k: int,
    score: Score,
    query_chunk_size: int,
    corpus_chunk_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the best-scoring corpus rows of each query.

    Args:
        queries: Q queries.
        corpus: N corpus rows of the same width.
        top_k: The number of results for each query.
        score: A function of MLX arrays (Q, V) and (N, V) that returns (Q, N); larger is more similar.
        query_chunk_size: The most queries scored at a time.
        corpus_chunk_size: The most corpus rows scored at a time; memory is bounded without it.

    Returns:
        Scores (Q, K) float32 and row numbers (Q, K) int64, where K = min(top_k, N): best first, ties by row number. Of
        rows that tie for the last rank, any may be returned.

    Raises:
        InputError: If a number is not a positive integer, or the widths differ.
    """
    check_positive_integer("top_k", top_k)
    check_positive_integer("query_chunk_size", query_chunk_size)
    check_positive_integer("corpus_chunk_size", corpus_chunk_size)
    if len(queries) and len(corpus) and queries.shape[1] != corpus.shape[1]:
        raise InputError(
            f"the queries are {queries.shape[1]} wide and the corpus is {corpus.shape[1]} wide, expected one width. "
            "Encode both with one model."
        )
    # Every query meets a chunk before the next chunk is read: a corpus on disk is read once, in order.
    best = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    wide = max(min(query_chunk_size, len(queries)), corpus.shape[1])
    # The caller's chunk size may only lower memory.
    step = min(corpus_chunk_size, _rows_at_a_time(wide))
    for start in range(0, len(corpus) if len(queries) else 0, step):
        chunk = _to_chunk(corpus.read(start, start + step), score)
        found = [
            _best_of_chunk(queries.read(at, at + query_chunk_size), chunk, top_k, score)
            for at in range(0, len(queries), query_chunk_size)
        ]
        values, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        best = _merge(best, (values, ids + start), top_k)
    return best


def check_positive_integer(name: str, value: Any) -> None:
    """Check that an argument is an integer of 1 or more.

    Args:
        name: The argument's name, for the error.
        value: Its value.

    Raises:
        InputError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}={value!r}, expected an integer of 1 or more.")


def _rows_at_a_time(numbers_a_row: int) -> int:
    """Return how many rows of so many float32 numbers fit into the budget, a multiple of the block size."""
    rows = _BYTES_AT_A_TIME // (4 * max(1, numbers_a_row))
    # A multiple of the block size, so that chunks need no padding but the last.
    return max(_BLOCK, rows // _BLOCK * _BLOCK)


def _to_chunk(chunk: np.ndarray, score: Score) -> mx.array:
    """Return a part of the corpus as an MLX array; for cosines it is normalized once for all queries."""
    return run(lambda: normalize(mx.array(chunk)) if score is cos_sim else mx.array(chunk))


def _best_of_chunk(part: np.ndarray, chunk: mx.array, top_k: int, score: Score) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and the columns of the best of one chunk, each (queries, K), in no order."""

    def compute() -> tuple[mx.array, mx.array]:
        queries = mx.array(part)
        scores = dot_score(normalize(queries), chunk) if score is cos_sim else score(queries, chunk)
        return top_scores(scores.astype(mx.float32), min(top_k, chunk.shape[0]))

    values, ids = run(compute)
    # int64, since row numbers of a large corpus are added to it.
    return np.array(values), np.array(ids).astype(np.int64)


def top_scores(scores: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Return the largest scores of each row.

    Args:
        scores: (Q, N).
        count: K, at most N.

    Returns:
        Scores and columns (Q, K) of each row's largest, in no order.
    """
    rows, columns = scores.shape
    blocks = -(-columns // _BLOCK)
    if blocks <= count:
        chosen = _largest(scores, count)
        return mx.take_along_axis(scores, chosen, axis=1), chosen
    if columns % _BLOCK:
        # -inf never wins, so padded columns are not among the results.
        scores = mx.pad(scores, [(0, 0), (0, blocks * _BLOCK - columns)], constant_values=-mx.inf)
    # The count largest scores lie in the count blocks with the largest maxima.
    cube = scores.reshape(rows, blocks, _BLOCK)
    best = _largest(cube.max(axis=2), count)
    candidates = mx.take_along_axis(cube, best[:, :, None], axis=1).reshape(rows, count * _BLOCK)
    inner = _largest(candidates, count)
    columns_of = mx.take_along_axis(best, inner // _BLOCK, axis=1) * _BLOCK + inner % _BLOCK
    return mx.take_along_axis(candidates, inner, axis=1), columns_of


def _largest(scores: mx.array, count: int) -> mx.array:
    """Return the columns (Q, K) of each row's largest scores, in no order."""
    if count == scores.shape[1]:
        return mx.broadcast_to(mx.arange(count, dtype=mx.uint32), scores.shape)
    # MLX partitions by the smallest values, hence the minus.
    return mx.argpartition(-scores, count - 1, axis=1)[:, :count]


def _merge(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge two results for the same queries: the best `top_k` of both, best first, ties by row number."""
    values, ids = (np.concatenate(parts, axis=1) for parts in zip(first, second, strict=True))
    # Ties by row number make the result independent of chunk sizes.
    order = np.lexsort((ids, -values), axis=-1)[:, :top_k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1)
