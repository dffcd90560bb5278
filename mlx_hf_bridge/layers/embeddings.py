"""The sum of word, position and segment vectors that a BERT-like encoder starts from.

B texts, L tokens, E embedding width.
"""

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch


class TokenEmbeddings(nn.Module):
    """batch -> its words' vectors times `scale`, or the caller's own (B, L, E); layers bring the places in.

    scales_vectors: the caller's own are multiplied too.
    """

    def __init__(self, vocabulary: int, width: int, scale: float = 1.0, scale_inputs_embeds: bool = False) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.scale = scale
        self.scale_inputs_embeds = scale_inputs_embeds

    def __call__(self, batch: TokenBatch) -> mx.array:
        if self.scale_inputs_embeds:
            return batch.embed(self.word) * self.scale
        return batch.embed(self._scaled)

    def _scaled(self, ids: mx.array) -> mx.array:
        words = self.word(ids)
        return words if self.scale == 1.0 else words * self.scale


class ExtraEmbedding(nn.Module):
    """batch -> the rows (B, L, E) of a table of the family's own, for the ids given as `input_name`.

    Without such ids `default_count` the first row (E,), or with `default_count` 0 nothing.
    """

    def __init__(self, rows: int, width: int, input_name: str | None = None, default_count: int = 1) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, width))
        self.input_name = input_name
        self.default_count = default_count

    def __call__(self, batch: TokenBatch) -> mx.array | None:
        given = None if self.input_name is None else batch.extra_inputs.get(self.input_name)
        if given is not None:
            return self.weight[given]
        return self.weight[0] * self.default_count if self.default_count else None


class Embeddings(nn.Module):
    """batch -> normalised sum (B, L, E); `token_types` 0 means the family has no segment table.

    pad_token_id None: places count every slot from 0; else they count real tokens, from that id + 1 on.
    layer_norm_eps None: the sum is not normalised. word_scale: what word vectors are multiplied by.
    own: by name, tables of what only this family knows of a token.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        positions: int,
        token_types: int,
        layer_norm_eps: float | None,
        pad_token_id: int | None = None,
        token_scale: float = 1.0,
        extra: Mapping[str, ExtraEmbedding] | None = None,
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        if layer_norm_eps is not None:
            self.norm = LayerNorm(width, eps=layer_norm_eps)
        self.pad_token_id = pad_token_id
        self.token_scale = token_scale
        self.extra = dict(extra or {})

    def __call__(self, batch: TokenBatch) -> mx.array:
        padding = self.pad_token_id
        positions = batch.positions() if padding is None else batch.positions_after(padding)
        words = batch.embed(self.word)  # (B, L, E)
        summed = (words if self.token_scale == 1.0 else words * self.token_scale) + self.position(positions)
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.token_type_ids is None else batch.token_type_ids
            summed = summed + self.token_type(segments)
        for table in self.extra.values():
            rows = table(batch)
            summed = summed if rows is None else summed + rows
        return self.norm(summed) if "norm" in self else summed


class MaskedEmbeddings(nn.Module):
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
        summed = batch.embed(self.word)  # (B, L, E)
        if "position" in self:
            summed = summed + self.position(batch.positions())
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.token_type_ids is None else batch.token_type_ids
            summed = summed + self.token_type(segments)
        normed: mx.array = self.norm(self.projection(summed) if "projection" in self else summed)  # (B, L, D)
        return normed if batch.mask is None else normed * batch.token_mask(normed.dtype)


class NormalizedEmbeddings(nn.Module):
    """batch -> norm of words and segments (B, L, E); `token_types` 0 means there is no segment table."""

    def __init__(self, vocabulary: int, width: int, norm: nn.Module, token_types: int = 0) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        self.norm = norm

    def __call__(self, batch: TokenBatch) -> mx.array:
        summed = batch.embed(self.word)  # (B, L, E)
        if "token_type" in self:
            segments = mx.zeros((1, 1), mx.int32) if batch.token_type_ids is None else batch.token_type_ids
            summed = summed + self.token_type(segments)
        normed: mx.array = self.norm(summed)
        return normed


class TokenPositionEmbeddings(nn.Module):
    """batch -> words plus places (B, L, E)."""

    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)

    def __call__(self, batch: TokenBatch) -> mx.array:
        return batch.embed(self.word) + self.position(batch.positions())


class XLMEmbeddings(nn.Module):
    """batch -> normalised sum (B, L, E) of words, places and, where segments are given, the words of their ids.

    languages: a table of what the caller says of each token's language.
    """

    def __init__(
        self, vocabulary: int, width: int, positions: int, norm: nn.Module, languages: ExtraEmbedding | None = None
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)
        self.norm = norm
        if languages is not None:
            self.languages = languages

    def __call__(self, batch: TokenBatch) -> mx.array:
        summed = batch.embed(self.word) + self.position(batch.positions())
        languages = self.languages(batch) if "languages" in self else None
        summed = summed if languages is None else summed + languages
        if batch.token_type_ids is not None:
            summed = summed + self.word(batch.token_type_ids)
        normed: mx.array = self.norm(summed)
        return normed
