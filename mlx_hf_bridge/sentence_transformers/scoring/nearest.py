"""The best-scoring rows of a corpus for every query, in a memory that neither of their numbers changes.

Q queries, N corpus rows, V vector width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.inference.pooling import normalized
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.encoding.results import to_numpy

Score = Callable[[mx.array, mx.array], mx.array]

# Scores, and the corpus rows that they are of, at a time; more is no faster.
_BYTES_AT_A_TIME = 2**26
# Columns whose maximum stands for them until the best are sought among few.
_BLOCK = 64


def dot_score(a: mx.array, b: mx.array) -> mx.array:
    """a (Q, V), b (N, V) -> dot products (Q, N)."""
    return a @ b.T


def cos_sim(a: mx.array, b: mx.array) -> mx.array:
    """a (Q, V), b (N, V) -> cosines (Q, N)."""
    return dot_score(normalized(a), normalized(b))


_BY_NAME: dict[str, Score] = {"cos_sim": cos_sim, "pytorch_cos_sim": cos_sim, "dot_score": dot_score}


def resolve_score_function(function: Callable[..., Any]) -> Score:
    """A function of MLX arrays as it is; of sentence-transformers' cos_sim and dot_score the one here of that name."""
    if str(getattr(function, "__module__", "")).partition(".")[0] != "sentence_transformers":
        return function
    if function.__name__ not in _BY_NAME:
        raise InputError(
            f"score_function={function.__name__} of sentence-transformers works on torch tensors; expected "
            f"{', '.join(_BY_NAME)}, or a function of two MLX arrays, (Q, V) and (N, V), that gives (Q, N)."
        )
    return _BY_NAME[function.__name__]


@dataclass(frozen=True)
class EmbeddingRows:
    """Vectors in whatever holds them (numpy, a memory map, MLX, torch, sparse, a list), read a part at a time."""

    source: Any
    shape: tuple[int, int]

    @classmethod
    def of(cls, source: Any, name: str) -> "EmbeddingRows":
        """InputError for what is not rows of numbers, all of one width."""
        if isinstance(source, (list, tuple)):
            source = np.stack([to_numpy(one) for one in source]) if source else np.zeros((0, 0), np.float32)
        shape = tuple(getattr(source, "shape", ()))
        if len(shape) == 1 and shape[0]:
            source, shape = source[None], (1, *shape)
        if shape == (0,):
            shape = (0, 0)
        if len(shape) != 2:
            raise InputError(f"{name} has the shape {shape}, expected (vectors, width). Pass what encode gives.")
        return cls(source, (int(shape[0]), int(shape[1])))

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, end: int) -> np.ndarray:
        """Rows from `start` to before `end` (n, V), float32."""
        end = min(end, len(self))
        if getattr(self.source, "is_sparse", False):
            import torch

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
    """The scores (Q, K) float32, best first, and corpus rows (Q, K) of the min(top_k, N) best; ties by row number.

    Of several that tie for the last place any may be given. The chunk sizes are upper bounds.
    """
    check_positive_integer("top_k", top_k)
    check_positive_integer("query_chunk_size", query_chunk_size)
    check_positive_integer("corpus_chunk_size", corpus_chunk_size)
    if len(queries) and len(corpus) and queries.shape[1] != corpus.shape[1]:
        raise InputError(
            f"the queries are {queries.shape[1]} wide and the corpus is {corpus.shape[1]} wide, expected one width. "
            "Encode both with one model."
        )
    best = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    wide = max(min(query_chunk_size, len(queries)), corpus.shape[1])
    step = min(corpus_chunk_size, _rows_at_a_time(wide))
    for start in range(0, len(corpus) if len(queries) else 0, step):
        chunk = _prepared(corpus.read(start, start + step), score)
        found = [
            _best_of(queries.read(at, at + query_chunk_size), chunk, top_k, score)
            for at in range(0, len(queries), query_chunk_size)
        ]
        values, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        best = _merged(best, (values, ids + start), top_k)
    return best


def check_positive_integer(name: str, value: Any) -> None:
    """InputError for what is not a whole number of 1 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}={value!r}, expected a whole number of 1 or more.")


def _rows_at_a_time(numbers_a_row: int) -> int:
    rows = _BYTES_AT_A_TIME // (4 * max(1, numbers_a_row))
    return max(_BLOCK, rows // _BLOCK * _BLOCK)


def _prepared(chunk: np.ndarray, score: Score) -> mx.array:
    """A part of the corpus; for cosines normalised once for all queries."""
    return run(lambda: normalized(mx.array(chunk)) if score is cos_sim else mx.array(chunk))


def _best_of(part: np.ndarray, chunk: mx.array, top_k: int, score: Score) -> tuple[np.ndarray, np.ndarray]:
    def work() -> tuple[mx.array, mx.array]:
        queries = mx.array(part)
        scores = dot_score(normalized(queries), chunk) if score is cos_sim else score(queries, chunk)
        return top_scores(scores.astype(mx.float32), min(top_k, chunk.shape[0]))

    values, ids = run(work)
    return np.array(values), np.array(ids).astype(np.int64)


def top_scores(scores: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """scores (Q, N) -> the values and columns (Q, count) of each row's largest, in no order.

    The largest are in the `count` blocks with the largest maxima, which are few to partition.
    """
    rows, columns = scores.shape
    blocks = -(-columns // _BLOCK)
    if blocks <= count:
        chosen = _largest(scores, count)
        return mx.take_along_axis(scores, chosen, axis=1), chosen
    if columns % _BLOCK:
        scores = mx.pad(scores, [(0, 0), (0, blocks * _BLOCK - columns)], constant_values=-mx.inf)
    cube = scores.reshape(rows, blocks, _BLOCK)
    best = _largest(cube.max(axis=2), count)
    candidates = mx.take_along_axis(cube, best[:, :, None], axis=1).reshape(rows, count * _BLOCK)
    inner = _largest(candidates, count)
    columns_of = mx.take_along_axis(best, inner // _BLOCK, axis=1) * _BLOCK + inner % _BLOCK
    return mx.take_along_axis(candidates, inner, axis=1), columns_of


def _largest(scores: mx.array, count: int) -> mx.array:
    if count == scores.shape[1]:
        return mx.broadcast_to(mx.arange(count, dtype=mx.uint32), scores.shape)
    return mx.argpartition(-scores, count - 1, axis=1)[:, :count]


def _merged(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], top_k: int
) -> tuple[np.ndarray, np.ndarray]:
    values, ids = (np.concatenate(parts, axis=1) for parts in zip(first, second, strict=True))
    order = np.lexsort((ids, -values), axis=-1)[:, :top_k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(ids, order, axis=1)
