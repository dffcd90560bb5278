"""The sum of word, position and segment vectors of DeBERTa, whose padding is cleared for a convolution to see.

B texts, L tokens, D hidden, E width of the tables.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.norm import LayerNorm


class ClearedEmbeddings(nn.Module):
    """batch -> normalised sum (B, L, D), 0 where padding is; `positions` and `token_types` 0 mean no such table."""

    def __init__(
        self, vocabulary: int, width: int, hidden_size: int, positions: int, token_types: int, eps: float
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        if positions:
            self.position = Embedding(positions, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        if width != hidden_size:
            self.projection = Linear(width, hidden_size, bias=False)
        self.norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, batch: TokenBatch) -> mx.array:
        summed = batch.words(self.word)  # (B, L, E)
        if "position" in self:
            summed = summed + self.position(batch.positions())
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.segments is None else batch.segments
            summed = summed + self.token_type(segments)
        normed: mx.array = self.norm(self.projection(summed) if "projection" in self else summed)  # (B, L, D)
        return normed if batch.mask is None else normed * batch.token_mask(normed.dtype)
