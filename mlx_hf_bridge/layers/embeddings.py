"""The sum of word, position and segment vectors that a BERT-like encoder starts from.

B texts, L tokens, E embedding width.
"""

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.batch import TokenBatch
from mlx_hf_bridge.layers.linear import Embedding


class WordEmbeddings(nn.Module):
    """batch -> its words' vectors times `scale`, or the caller's own (B, L, E); layers bring the places in."""

    def __init__(self, vocabulary: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.scale = scale

    def __call__(self, batch: TokenBatch) -> mx.array:
        return batch.words(self._scaled)

    def _scaled(self, ids: mx.array) -> mx.array:
        words = self.word(ids)
        return words if self.scale == 1.0 else words * self.scale


class FirstRow(nn.Module):
    """-> `times` the first row (E,) of a table whose other rows are for what callers here cannot say of a token."""

    def __init__(self, rows: int, width: int, times: int = 1) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, width))
        self.times = times

    def __call__(self) -> mx.array:
        return self.weight[0] * self.times


class Embeddings(nn.Module):
    """batch -> normalised sum (B, L, E); `token_types` 0 means the family has no segment table.

    pad_token_id None: places count every slot from 0; else they count real tokens, from that id + 1 on.
    layer_norm_eps None: the sum is not normalised. word_scale: what word vectors are multiplied by.
    constants: by name, what is added to every token.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        positions: int,
        token_types: int,
        layer_norm_eps: float | None,
        pad_token_id: int | None = None,
        word_scale: float = 1.0,
        constants: Mapping[str, FirstRow] | None = None,
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        if layer_norm_eps is not None:
            self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.pad_token_id = pad_token_id
        self.word_scale = word_scale
        self.constants = dict(constants or {})

    def __call__(self, batch: TokenBatch) -> mx.array:
        padding = self.pad_token_id
        positions = batch.positions() if padding is None else batch.positions_after(padding)
        words = batch.words(self.word)  # (B, L, E)
        summed = (words if self.word_scale == 1.0 else words * self.word_scale) + self.position(positions)
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.segments is None else batch.segments
            summed = summed + self.token_type(segments)
        for constant in self.constants.values():
            summed = summed + constant()
        return self.norm(summed) if "norm" in self else summed
