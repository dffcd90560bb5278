"""What encoders start from whose layers bring the places in: words, and segments where there are any, normalised.

B texts, L tokens, E embedding width.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.linear import Embedding


class NormedEmbeddings(nn.Module):
    """batch -> norm of words and segments (B, L, E); `token_types` 0 means there is no segment table."""

    def __init__(self, vocabulary: int, width: int, norm: nn.Module, token_types: int = 0) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        self.norm = norm

    def __call__(self, batch: TokenBatch) -> mx.array:
        summed = batch.words(self.word)  # (B, L, E)
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.segments is None else batch.segments
            summed = summed + self.token_type(segments)
        normed: mx.array = self.norm(summed)
        return normed
