"""The learned term that T5 and its kin add to attention scores, by how far apart two tokens stand.

L tokens, H heads.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import relative_buckets
from mlx_hf_bridge.layers.linear import Embedding


class RelativePositionBias(nn.Module):
    """L -> what is added to the scores (1, H, L, L); the table may have more rows than there are buckets."""

    def __init__(self, rows: int, heads: int, buckets: int, max_distance: int) -> None:
        super().__init__()
        self.table = Embedding(rows, heads)
        self.buckets = buckets
        self.max_distance = max_distance

    def __call__(self, length: int) -> mx.array:
        return self.table(relative_buckets(length, self.buckets, self.max_distance)).transpose(2, 0, 1)[None]
