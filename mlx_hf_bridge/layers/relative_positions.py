"""Relative positions: the embeddings that disentangled attention scores, and T5's biases of the scores.

Sources: DeBERTa (He et al., arXiv 2006.03654); T5 (Raffel et al., arXiv 1910.10683, section 2.1).

Axes: L tokens, D hidden size, H heads, R rows of the table that L tokens reach.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.attention import relative_buckets
from mlx_hf_bridge.layers.linear import Embedding

# config.json's value for "one row for each distance" (position_buckets).
_NO_BUCKETS = -1


@dataclass(frozen=True)
class RelativePositions:
    """The relative positions of a batch, which all layers share.

    Args:
        embeddings: Embeddings of the relative positions that occur, (R, D).
        index: Row of `embeddings` for each query and key, (L, L), int32.
    """

    embeddings: mx.array
    index: mx.array


class RelativePositionTable(nn.Module):
    """DeBERTa's table of relative position embeddings.

    Takes the length L and returns RelativePositions. Distances beyond the table share its outermost rows.

    Args:
        span: Rows for each direction; the table has twice as many.
        width: D.
        norm: Norm of the embeddings, or None.
        buckets: Number of logarithmic buckets of distances (DeBERTa v2); -1 for a row per distance.
        max_distance: Distance that the last bucket reaches.
    """

    def __init__(
        self,
        span: int,
        width: int,
        norm: nn.Module | None = None,
        buckets: int = _NO_BUCKETS,
        max_distance: int = 0,
    ) -> None:
        super().__init__()
        self.table = Embedding(2 * span, width)
        if norm is not None:
            self.norm = norm
        self._span, self._buckets, self._max_distance = span, buckets, max_distance

    def __call__(self, length: int) -> RelativePositions:
        # numpy, because the number of rows depends on the values: MLX would have to evaluate for it.
        distances = np.arange(1 - length, length, dtype=np.int32)
        if self._buckets > 0:
            distances = log_buckets(distances, self._buckets, self._max_distance)
        # Only the rows that L tokens reach are looked up and projected by the layers.
        reach = min(int(distances[-1]) + 1, self._span)
        rows = mx.array(np.clip(distances + reach, 0, 2 * reach - 1))  # (2 L - 1,)
        positions = mx.arange(length, dtype=mx.int32)
        index = rows[positions[:, None] - positions[None, :] + (length - 1)]  # (L, L)
        embeddings = self.table.weight[self._span - reach : self._span + reach]  # (R, D)
        return RelativePositions(self.norm(embeddings) if "norm" in self else embeddings, index)


def log_buckets(distances: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Return DeBERTa v2's buckets of distances: exact up to half of `buckets` in each direction, logarithmic beyond.

    Source: make_log_bucket_position in transformers/models/deberta_v2/modeling_deberta_v2.py. float32 throughout and
    in numpy, because buckets change where a rounded logarithm crosses an integer: float64 or another device could round
    to the other side.

    Args:
        distances: Query minus key position, any shape, int32.
        buckets: Number of buckets.
        max_distance: Distance that the last bucket reaches.

    Returns:
        Buckets of the shape of `distances`, int32, with the sign of the distance.
    """
    middle = buckets // 2
    # float32 throughout, in the order of transformers' make_log_bucket_position: ceil turns a last-digit difference of
    # the logarithm into another bucket.
    far = np.maximum(np.abs(distances), max(middle - 1, 1)).astype(np.float32) / np.float32(middle)
    steps = np.log(far) / np.log(np.float32((max_distance - 1) / middle)) * np.float32(middle - 1)
    logarithmic = (np.ceil(steps) + middle) * np.sign(distances)
    return np.where(np.abs(distances) <= middle, distances, logarithmic).astype(np.int32)


class RelativePositionBias(nn.Module):
    """T5's relative position bias, one number for each bucket and head.

    Takes the length L and returns what is added to the scores, (1, H, L, L).

    Args:
        rows: Rows of the table; there may be more than buckets.
        heads: H.
        buckets: Number of buckets, half of them for keys after the query.
        max_distance: Distance from which on all keys share the last bucket of their side.
        causal: Whether no query sees a later key, as in a decoder: all buckets are then for earlier ones.
    """

    def __init__(self, rows: int, heads: int, buckets: int, max_distance: int, causal: bool = False) -> None:
        super().__init__()
        self.table = Embedding(rows, heads)
        self.buckets = buckets
        self.max_distance = max_distance
        self.causal = causal

    def __call__(self, length: int) -> mx.array:
        rows = relative_buckets(length, self.buckets, self.max_distance, self.causal)
        return self.table(rows).transpose(2, 0, 1)[None]
