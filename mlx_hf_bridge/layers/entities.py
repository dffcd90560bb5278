"""LUKE's entities: embeddings that follow a text's tokens, attention that knows which are which, and heads.

Source: Yamada et al., arXiv 2010.01057; reference: transformers/models/luke/modeling_luke.py.

Axes: B texts, L tokens, E entities, M tokens of a mention, D hidden size, H heads, K = D / H, C classes.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.layers.attention import Attention, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.embeddings import Embeddings
from mlx_hf_bridge.layers.heads import HeadOutputs, TokenTable
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.token_batch import TokenBatch

IDS, MASK = "entity_ids", "entity_attention_mask"
TYPES, POSITIONS = "entity_token_type_ids", "entity_position_ids"
STARTS, ENDS = "entity_start_positions", "entity_end_positions"


class EntityEmbeddings(nn.Module):
    """The sum of an entity's embedding, the mean of its mention's position embeddings, and its type, then a norm.

    Takes a TokenBatch with entities and returns (B, E, D).

    Args:
        entities: Rows of the entity table.
        entity_width: Width of the entity table; projected to D if it differs.
        width: D.
        positions: Rows of the position table.
        token_types: Rows of the type table.
        eps: Epsilon of the layer norm.
    """

    def __init__(
        self, entities: int, entity_width: int, width: int, positions: int, token_types: int, eps: float
    ) -> None:
        super().__init__()
        self.entity = Embedding(entities, entity_width)
        if entity_width != width:
            self.projection = Linear(entity_width, width, bias=False)
        self.position = Embedding(positions, width)
        self.token_type = Embedding(token_types, width)
        self.norm = LayerNorm(width, eps=eps)

    def __call__(self, batch: TokenBatch) -> mx.array:
        ids = batch.extra_inputs[IDS]
        entities = self.entity(ids)
        if "projection" in self:
            entities = self.projection(entities)
        places = batch.extra_inputs[POSITIONS]  # (B, E, M), -1 after the end of a mention
        rows = self.position(mx.maximum(places, 0))
        is_token = (places != -1).astype(rows.dtype)[..., None]
        # An entity without a mention gets 0, as in transformers.
        mean = (rows * is_token).sum(axis=2) / mx.maximum(is_token.sum(axis=2), 1)
        types = batch.extra_inputs.get(TYPES)
        normed: mx.array = self.norm(entities + mean + self.token_type(mx.zeros_like(ids) if types is None else types))
        return normed


class TokensAndEntities(Embeddings):
    """RoBERTa's embeddings of tokens, followed by those of entities if the batch has any.

    Takes a TokenBatch and returns (B, L, D), or (B, L + E, D).

    Args:
        vocabulary: Rows of the token table.
        width: D.
        positions: Rows of the position table.
        token_types: Rows of the token type table.
        eps: Epsilon of the layer norm.
        pad_token_id: Id of padding, after which positions are counted.
        entities: The embeddings of entities.
    """

    def __init__(
        self,
        vocabulary: int,
        width: int,
        positions: int,
        token_types: int,
        eps: float,
        pad_token_id: int,
        entities: EntityEmbeddings,
    ) -> None:
        super().__init__(vocabulary, width, positions, token_types, eps, pad_token_id)
        self.entities = entities

    def __call__(self, batch: TokenBatch) -> mx.array:
        embedded = super().__call__(batch)
        if not has_entities(batch):
            return embedded
        return mx.concatenate([embedded, self.entities(batch).astype(embedded.dtype)], axis=1)


def has_entities(batch: TokenBatch) -> bool:
    """Return whether a batch has entities.

    Args:
        batch: The batch.

    Returns:
        True if `entity_ids` were given.
    """
    return IDS in batch.extra_inputs


def count_tokens(batch: TokenBatch) -> int | None:
    """Return how many of the positions are tokens where entities follow them.

    Args:
        batch: The batch.

    Returns:
        L; None for a batch without entities.
    """
    return batch.ids.shape[1] if has_entities(batch) else None


def mask_with_entities(batch: TokenBatch) -> mx.array | None:
    """Return the attention mask of tokens and entities.

    Args:
        batch: The batch.

    Returns:
        As `TokenBatch.key_mask`, with E more keys if the batch has entities.

    Raises:
        InputError: If a mask with a row for each query is given with entities.
    """
    mask = batch.key_mask()
    if not has_entities(batch):
        return mask
    given = batch.extra_inputs.get(MASK)
    visible = mx.ones(batch.extra_inputs[IDS].shape, mx.bool_) if given is None else given != 0
    if mask is None and given is None:
        return None
    visible = visible[:, None, None]
    if mask is None:
        mask = mx.ones((len(batch.ids), 1, 1, batch.ids.shape[1]), mx.bool_)
    if mask.shape[2] != 1:
        raise InputError(
            "attention_mask has 4 axes or a text without tokens, and entities are given, which it says nothing of. "
            "Pass a mask (texts, tokens) that has a token in every row."
        )
    if mask.dtype != mx.bool_:
        visible = mx.where(visible, 0, mx.finfo(mx.float32).min)
    return mx.concatenate([mx.broadcast_to(mask, (len(batch.ids), *mask.shape[1:])), visible], axis=-1)


class EntityAwareAttention(Attention):
    """Attention whose queries depend on whether the query and the key are a token or an entity.

    Takes x (B, L, D) or (B, L + E, D), the mask, and L where entities follow the tokens, else None. Returns the shape
    of x.

    Args:
        hidden_size: D.
        heads: H.
    """

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__(hidden_size, heads)
        self.token_to_entity = Linear(hidden_size, hidden_size)
        self.entity_to_token = Linear(hidden_size, hidden_size)
        self.entity_to_entity = Linear(hidden_size, hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None, tokens: int | None = None) -> mx.array:  # type: ignore[override]
        return super().__call__(x, mask) if tokens is None else self.with_weights(x, mask, tokens)[0]

    def with_weights(  # type: ignore[override]
        self, x: mx.array, mask: mx.array | None, tokens: int | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L + E, D).
            mask: True for visible keys, or floats to add, (B, 1, 1, L + E), or None.
            tokens: L where entities follow the tokens, else None.

        Returns:
            The output (B, L + E, D) and the attention weights (B, H, L + E, L + E).
        """
        if tokens is None:
            return super().with_weights(x, mask)
        queries, keys, values = self._heads(x)
        words, entities = x[:, :tokens], x[:, tokens:]
        other = [
            split_heads(layer(part), self.heads)
            for layer, part in ((self.entity_to_token, entities), (self.token_to_entity, words))
        ]
        pairs = split_heads(self.entity_to_entity(entities), self.heads)
        # Queries for tokens as keys, then queries for entities as keys, each (B, H, L + E, K).
        for_tokens = mx.concatenate([queries[:, :, :tokens], other[0]], axis=2)
        for_entities = mx.concatenate([other[1], pairs], axis=2)
        is_token = mx.arange(x.shape[1]) < tokens
        # As one product of twice the width: a key is 0 where the other kind of query applies.
        chosen = is_token[None, None, :, None]
        wide_keys = mx.concatenate([mx.where(chosen, keys, 0), mx.where(chosen, 0, keys)], axis=-1)
        wide = mx.concatenate([for_tokens, for_entities], axis=-1)
        attended, weights = attend_with_weights(wide, wide_keys, values, self.scale, mask, None)
        return self.out(merge_heads(attended)), weights

    def first_token(self, x: mx.array, mask: mx.array | None, tokens: int | None = None) -> mx.array:  # type: ignore[override]
        """Compute the output at position 0 only.

        Args:
            x: Hidden states, (B, L, D) or (B, L + E, D).
            mask: True for visible keys, or floats to add, or None.
            tokens: L where entities follow the tokens, else None.

        Returns:
            The output of shape (B, 1, D).
        """
        return super().first_token(x, mask) if tokens is None else self(x, mask, tokens)[:, :1]


class PlainEntityAttention(Attention):
    """Attention that treats entities as further tokens; the third argument is ignored."""

    def __call__(self, x: mx.array, mask: mx.array | None, tokens: int | None = None) -> mx.array:  # type: ignore[override]
        return super().__call__(x, mask)

    def with_weights(  # type: ignore[override]
        self, x: mx.array, mask: mx.array | None, tokens: int | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its attention weights.

        Args:
            x: Hidden states, (B, L + E, D).
            mask: True for visible keys, or floats to add, or None.
            tokens: Not used.

        Returns:
            The output (B, L + E, D) and the attention weights (B, H, L + E, L + E).
        """
        return super().with_weights(x, mask)

    def first_token(self, x: mx.array, mask: mx.array | None, tokens: int | None = None) -> mx.array:  # type: ignore[override]
        """Compute the output at position 0 only.

        Args:
            x: Hidden states, (B, L + E, D).
            mask: True for visible keys, or floats to add, or None.
            tokens: Not used.

        Returns:
            The output of shape (B, 1, D).
        """
        return super().first_token(x, mask)


class EntityHead(nn.Module):
    """A linear layer on entities: the first ones of each text next to each other, or each with its mention's ends.

    Takes the hidden states of tokens and entities, (B, L + E, D). Returns "logits", (B, C) or (B, E, C).

    Args:
        hidden_size: D.
        classes: C.
        count: How many entities are classified together; None for each by itself, with the tokens at its ends.
        bias: Whether the linear layer has a bias.
    """

    def __init__(self, hidden_size: int, classes: int, count: int | None, bias: bool = True) -> None:
        super().__init__()
        self.out = Linear((count or 3) * hidden_size, classes, bias)
        self.count = count

    def __call__(self, hidden: mx.array, pooled: mx.array | None, batch: TokenBatch, table: TokenTable) -> HeadOutputs:
        tokens = batch.ids.shape[1]
        needed = (IDS,) if self.count else (IDS, STARTS, ENDS)
        if missing := [name for name in needed if name not in batch.extra_inputs]:
            raise InputError(f"{' and '.join(missing)} are not given, and the model classifies entities. Pass them.")
        entities = hidden[:, tokens:]
        if self.count is None:
            ends = [mx.take_along_axis(hidden, batch.extra_inputs[name][..., None], axis=1) for name in (STARTS, ENDS)]
            return {"logits": self.out(mx.concatenate([*ends, entities], axis=-1))}
        if entities.shape[1] < self.count:
            raise InputError(f"entity_ids has {entities.shape[1]} entities for a text, expected {self.count} or more.")
        return {"logits": self.out(entities[:, : self.count].reshape(len(hidden), -1))}


class EntityMaskedLMHead(nn.Module):
    """LUKE's masked-LM head: the scores of all tokens for every token, and of all entities for every entity.

    Takes the hidden states of tokens and entities, (B, L + E, D). Returns "logits" (B, L, V) and, if the batch has
    entities, "entity_logits" (B, E, rows of the entity table).

    Args:
        tokens: The head of the tokens.
        entities: The head of the entities, which scores the rows of the entity table.
    """

    def __init__(self, tokens: nn.Module, entities: nn.Module) -> None:
        super().__init__()
        self.tokens, self.entities = tokens, entities

    def __call__(
        self,
        hidden: mx.array,
        pooled: mx.array | None,
        batch: TokenBatch,
        table: TokenTable,
        entity_table: TokenTable | None = None,
    ) -> HeadOutputs:
        length = batch.ids.shape[1]
        outputs: HeadOutputs = self.tokens(hidden[:, :length], pooled, batch, table)
        if has_entities(batch):
            outputs |= self.entities(hidden[:, length:], pooled, batch, entity_table)
        return outputs
