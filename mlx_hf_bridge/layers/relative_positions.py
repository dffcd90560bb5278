"""The vectors of relative places that disentangled attention scores with, and which pair of tokens has which.

L tokens, D hidden, R rows of the table that L tokens reach.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.attention import relative_buckets
from mlx_hf_bridge.layers.linear import Embedding

_NO_BUCKETS = -1


@dataclass(frozen=True)
class RelativePositions:
    """What all layers share: vectors (R, D), and index (L, L) int32, the row for a query and a key."""

    vectors: mx.array
    index: mx.array


def log_buckets(distances: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Query minus key place -> bucket: exact up to half of `buckets` either way, logarithmic beyond.

    float32 throughout, on the host: the steps are where a logarithm is rounded up (make_log_bucket_position).
    """
    middle = buckets // 2
    far = np.maximum(np.abs(distances), max(middle - 1, 1)).astype(np.float32) / np.float32(middle)
    steps = np.log(far) / np.log(np.float32((max_distance - 1) / middle)) * np.float32(middle - 1)
    logarithmic = (np.ceil(steps) + middle) * np.sign(distances)
    return np.where(np.abs(distances) <= middle, distances, logarithmic).astype(np.int32)


class RelativePositionTable(nn.Module):
    """L -> the rows that its distances reach, and which is whose. Farther ones share the outermost rows.

    `span` rows either way; `buckets` > 0 makes distances logarithmic up to `max_distance`.
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
        distances = np.arange(1 - length, length, dtype=np.int32)
        if self._buckets > 0:
            distances = log_buckets(distances, self._buckets, self._max_distance)
        reach = min(int(distances[-1]) + 1, self._span)
        rows = mx.array(np.clip(distances + reach, 0, 2 * reach - 1))  # (2 L - 1,)
        places = mx.arange(length, dtype=mx.int32)
        index = rows[places[:, None] - places[None, :] + (length - 1)]  # (L, L)
        vectors = self.table.weight[self._span - reach : self._span + reach]  # (R, D)
        return RelativePositions(self.norm(vectors) if "norm" in self else vectors, index)


class RelativePositionBias(nn.Module):
    """L -> what is added to the scores (1, H, L, L); the table may have more rows than there are buckets."""

    def __init__(self, rows: int, heads: int, buckets: int, max_distance: int) -> None:
        super().__init__()
        self.table = Embedding(rows, heads)
        self.buckets = buckets
        self.max_distance = max_distance

    def __call__(self, length: int) -> mx.array:
        return self.table(relative_buckets(length, self.buckets, self.max_distance)).transpose(2, 0, 1)[None]
