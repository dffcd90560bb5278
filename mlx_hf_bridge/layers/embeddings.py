"""The embedding layers that encoders start from: tokens, positions, token types and model-specific tables.

Sources: BERT (Devlin et al., arXiv 1810.04805), RoBERTa's positions (Liu et al., 1907.11692), DeBERTa (He et al.,
2006.03654) and XLM (Lample and Conneau, 1901.07291).

Axes: B texts, L tokens, E embedding width, D hidden size.
"""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Embedding, Linear, QuantizedEmbedding
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch


class ExtraEmbedding(nn.Module):
    """An embedding table for an input that only some models have, such as ERNIE's `task_type_ids`.

    Takes a TokenBatch. Returns rows (B, L, E) for the ids of `input_name`; if the batch has none, `default_count` times
    the first row, (E,), or None if that count is 0.

    Args:
        rows: Number of rows of the table.
        width: Embedding width, E.
        input_name: Name in TokenBatch.extra_inputs.
        default_count: How often the first row is added for a missing input. LayoutLM looks several coordinates up in
            one table, so that a missing `bbox` of zeros adds its row more than once.
        lookups: Functions of the input, each of which returns ids (B, L) to look up; the rows are added.
    """

    def __init__(
        self,
        rows: int,
        width: int,
        input_name: str,
        default_count: int = 1,
        lookups: Sequence[Callable[[mx.array], mx.array]] = (lambda ids: ids,),
    ) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, width))
        self.input_name = input_name
        self.default_count = default_count
        self._lookups = tuple(lookups)

    def __call__(self, batch: TokenBatch) -> mx.array | None:
        given = batch.extra_inputs.get(self.input_name)
        # transformers adds the row of id 0 where the caller gives no ids.
        if given is None:
            return self.weight[0] * self.default_count if self.default_count else None
        first, *others = (self.weight[lookup(given)] for lookup in self._lookups)
        return sum(others, start=first)


class Embeddings(nn.Module):
    """BERT's embeddings: the sum of token, position and token type embeddings, then layer norm.

    Takes a TokenBatch and returns (B, L, E).

    Args:
        vocabulary: Rows of the token table, or a module that replaces it, (B, L) -> (B, L, E).
        width: Embedding width, E.
        positions: Rows of the position table.
        token_types: Rows of the token type table; 0 for no such table.
        layer_norm_eps: Epsilon of the layer norm; None for no layer norm.
        pad_token_id: None to count positions from 0, padding included (BERT); an id to count only real tokens, from
            that id + 1 on (RoBERTa).
        token_scale: Factor of the token embeddings.
        extra: Model-specific tables by name, which are added to the sum.
    """

    def __init__(
        self,
        vocabulary: int | nn.Module,
        width: int,
        positions: int,
        token_types: int,
        layer_norm_eps: float | None,
        pad_token_id: int | None = None,
        token_scale: float = 1.0,
        extra: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width) if isinstance(vocabulary, int) else vocabulary
        self.position = Embedding(positions, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        if layer_norm_eps is not None:
            self.norm = LayerNorm(width, eps=layer_norm_eps)
        self.pad_token_id = pad_token_id
        self.token_scale = token_scale
        self.extra = dict(extra or {})

    def __call__(self, batch: TokenBatch) -> mx.array:
        tokens = batch.embed(self.word)  # (B, L, E)
        summed = (tokens if self.token_scale == 1.0 else tokens * self.token_scale) + self._positions(batch)
        if "token_type" in self:
            summed = summed + _token_types(self.token_type, batch)
        for table in self.extra.values():
            rows = table(batch)
            summed = summed if rows is None else summed + rows
        return self.norm(summed) if "norm" in self else summed

    def _positions(self, batch: TokenBatch) -> mx.array:
        # RoBERTa's positions start after the id of padding; BERT's at 0.
        if self.pad_token_id is not None:
            return self.position(batch.positions_after(self.pad_token_id))
        if batch.position_ids is None and isinstance(self.position, Embedding):
            # The first rows: a view of the table instead of a lookup.
            return self.position.weight[None, : batch.ids.shape[1]]
        return self.position(batch.positions())


class PositionsAndNorm(nn.Module):
    """Adds positions counted from 0 to token embeddings, then applies layer norm (BART).

    Takes token embeddings (B, L, D) and returns (B, L, D).

    Args:
        positions: Number of positions.
        width: D.
        eps: Epsilon of the layer norm.
        offset: Rows at the start of the position table that no position reads; 2 in BART's family.
    """

    def __init__(self, positions: int, width: int, eps: float, offset: int) -> None:
        super().__init__()
        self.position = Embedding(positions + offset, width)
        self.norm = LayerNorm(width, eps=eps)
        self.offset = offset

    def __call__(self, tokens: mx.array) -> mx.array:
        rows = mx.arange(tokens.shape[1], dtype=mx.int32)[None] + self.offset
        normed: mx.array = self.norm(tokens + self.position(rows))
        return normed


class SharedEmbeddings(nn.Module):
    """BART's embeddings: a token table that encoder and decoder share, and the encoder's positions and norm.

    Takes a TokenBatch and returns (B, L, D). `position_ids` are ignored, as in transformers.

    Args:
        vocabulary: Rows of the token table.
        width: D.
        positions: Adds the encoder's positions.
        token_scale: Factor of the token embeddings.
    """

    def __init__(self, vocabulary: int, width: int, positions: PositionsAndNorm, token_scale: float = 1.0) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.positions = positions
        self.token_scale = token_scale

    def __call__(self, batch: TokenBatch) -> mx.array:
        embedded: mx.array = self.positions(self.tokens(batch))
        return embedded

    def tokens(self, batch: TokenBatch) -> mx.array:
        """Return the scaled token embeddings, without positions.

        Args:
            batch: The batch.

        Returns:
            Array of shape (B, L, D).
        """
        tokens = batch.embed(self.word)
        return tokens if self.token_scale == 1.0 else tokens * self.token_scale


class MaskedEmbeddings(nn.Module):
    """DeBERTa's embeddings: a normalized sum that is 0 at padded positions.

    Takes a TokenBatch and returns (B, L, D).

    Args:
        vocabulary: Rows of the token table.
        width: Embedding width, E.
        hidden_size: D; if it is not E, a linear layer without bias projects the sum to it.
        positions: Rows of the position table; 0 for no such table.
        token_types: Rows of the token type table; 0 for no such table.
        eps: Epsilon of the layer norm.
    """

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
            summed = summed + _token_types(self.token_type, batch)
        normed: mx.array = self.norm(self.projection(summed) if "projection" in self else summed)  # (B, L, D)
        # Zero at padding, as in transformers: the convolution after the first layer reads neighbors.
        return normed if batch.mask is None else normed * batch.token_mask(normed.dtype)


class TokenEmbeddings(nn.Module):
    """Token embeddings only, for encoders whose attention layers bring the positions in (rotary, relative).

    Takes a TokenBatch and returns (B, L, E).

    Args:
        vocabulary: Rows of the token table.
        width: Embedding width, E.
        scale: Factor of the embeddings (Gemma: the square root of E).
        scale_inputs_embeds: Whether `inputs_embeds` are multiplied by it too.
    """

    def __init__(self, vocabulary: int, width: int, scale: float = 1.0, scale_inputs_embeds: bool = False) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.scale = scale
        self.scale_inputs_embeds = scale_inputs_embeds

    def __call__(self, batch: TokenBatch) -> mx.array:
        if self.scale_inputs_embeds:
            return batch.embed(self.word) * self.scale
        # inputs_embeds skip the scale, as in transformers, unless scale_inputs_embeds says otherwise.
        return batch.embed(self._scaled)

    def tokens(self, batch: TokenBatch) -> mx.array:
        """Return the token embeddings, which a decoder reads too.

        Args:
            batch: The batch.

        Returns:
            Array of shape (B, L, E).
        """
        return self(batch)

    def _scaled(self, ids: mx.array) -> mx.array:
        tokens = self.word(ids)
        return tokens if self.scale == 1.0 else tokens * self.scale


class NormalizedEmbeddings(nn.Module):
    """Token and token type embeddings, then a norm, for rotary encoders.

    Takes a TokenBatch and returns (B, L, E).

    Args:
        vocabulary: Rows of the token table.
        width: Embedding width, E.
        norm: Norm of the sum.
        token_types: Rows of the token type table; 0 for no such table.
    """

    def __init__(self, vocabulary: int, width: int, norm: nn.Module, token_types: int = 0) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        if token_types:
            self.token_type = Embedding(token_types, width)
        self.norm = norm

    def __call__(self, batch: TokenBatch) -> mx.array:
        summed = batch.embed(self.word)  # (B, L, E)
        if "token_type" in self:
            summed = summed + _token_types(self.token_type, batch)
        normed: mx.array = self.norm(summed)
        return normed


class TokenPositionEmbeddings(nn.Module):
    """The sum of token and position embeddings, without a norm (CLIP's text model).

    Takes a TokenBatch and returns (B, L, E).

    Args:
        vocabulary: Rows of the token table.
        width: Embedding width, E.
        positions: Rows of the position table.
    """

    def __init__(self, vocabulary: int, width: int, positions: int) -> None:
        super().__init__()
        self.word = Embedding(vocabulary, width)
        self.position = Embedding(positions, width)

    def __call__(self, batch: TokenBatch) -> mx.array:
        return batch.embed(self.word) + self.position(batch.positions())


class XLMEmbeddings(nn.Module):
    """XLM's embeddings: tokens, positions and languages, then a norm; token type ids are looked up among the tokens.

    Takes a TokenBatch and returns (B, L, E).

    Args:
        vocabulary: Rows of the token table.
        width: Embedding width, E.
        positions: Rows of the position table.
        norm: Norm of the sum.
        languages: Table of each token's language (`langs`); None for no such table.
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


def _token_types(table: Embedding | QuantizedEmbedding, batch: TokenBatch) -> mx.array:
    """Return the token type embeddings, (B, L, E), or those of type 0 that are broadcast, (1, E) or (1, 1, E)."""
    if batch.token_type_ids is not None:
        return table(batch.token_type_ids)
    # A view of the table instead of a lookup.
    return table.weight[:1] if isinstance(table, Embedding) else table(mx.zeros((1, 1), mx.int32))
