"""The sum of word, position and segment vectors that a BERT-like encoder starts from.

B texts, L tokens, E embedding width.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.linear import Embedding


class Embeddings(nn.Module):
    """batch -> normalised sum (B, L, E); `token_types` 0 means the family has no segment table.

    pad_token_id None: places count every slot from 0; else they count real tokens, from that id + 1 on.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        positions: int,
        token_types: int,
        layer_norm_eps: float,
        pad_token_id: int | None = None,
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.pad_token_id = pad_token_id

    def __call__(self, batch: TokenBatch) -> mx.array:
        padding = self.pad_token_id
        positions = batch.positions() if padding is None else batch.positions_after(padding)
        summed = batch.words(self.word) + self.position(positions)  # (B, L, E)
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.segments is None else batch.segments
            summed = summed + self.token_type(segments)
        normed: mx.array = self.norm(summed)
        return normed
