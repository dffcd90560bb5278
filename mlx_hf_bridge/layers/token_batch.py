"""A batch of token rows: which tokens are real, where they stand, and the questions layers ask about that.

B texts, L tokens, D hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import mlx.core as mx


@dataclass(frozen=True)
class TokenBatch:
    """Padded token rows. Only this class knows how the rows lie in memory.

    ids (B, L) int32; mask (B, L) bool, True = a real token, None = all are; segments (B, L) int32, None = all 0;
    places (B, L) int32, None = counted from the rows; vectors (B, L, E), None = the word table's; given: what
    arguments that only this family has say of the tokens (B, L) int32, by their names in transformers.
    """

    ids: mx.array
    mask: mx.array | None = None
    token_type_ids: mx.array | None = None
    position_ids: mx.array | None = None
    inputs_embeds: mx.array | None = None
    extra_inputs: Mapping[str, mx.array] = field(default_factory=dict)

    def embed(self, table: Callable[[mx.array], mx.array]) -> mx.array:
        """The tokens' vectors (B, L, E): the caller's own, or those that the table has for the ids."""
        return table(self.ids) if self.inputs_embeds is None else self.inputs_embeds

    def key_mask(self) -> mx.array | None:
        """(B, 1, 1, L) bool, True = may be attended to; None = everything. A row of padding alone sees itself."""
        if self.mask is None:
            return None
        nothing = mx.logical_not(self.mask.any(axis=1, keepdims=True))
        return mx.logical_or(self.mask, nothing)[:, None, None, :]

    def causal_mask(self) -> mx.array:
        """(1 or B, 1, L, L) bool, True = a real token at or before the query; a query always sees itself."""
        places = mx.arange(self.ids.shape[1], dtype=mx.int32)
        behind = (places[:, None] >= places[None, :])[None, None]
        if self.mask is None:
            return behind
        itself = (places[:, None] == places[None, :])[None, None]
        return mx.logical_or(mx.logical_and(behind, self.mask[:, None, None, :]), itself)

    def positions(self) -> mx.array:
        """Places from 0 at the row's first slot, padding counted (BERT) -> (1, L) or (B, L)."""
        if self.position_ids is not None:
            return self.position_ids
        return mx.arange(self.ids.shape[1], dtype=mx.int32)[None]

    def positions_after(self, pad_token_id: int) -> mx.array:
        """Places from `pad_token_id` + 1 at the first id that is not padding; padding has `pad_token_id` (RoBERTa)."""
        if self.position_ids is not None:
            return self.position_ids
        real = (self.ids != pad_token_id).astype(mx.int32)
        return mx.cumsum(real, axis=1) * real + pad_token_id

    def token_mask(self, dtype: mx.Dtype) -> mx.array:
        """(B, L, 1), 1 = a real token."""
        if self.mask is None:
            return mx.ones((*self.ids.shape, 1), dtype)
        return self.mask[:, :, None].astype(dtype)

    def first_tokens(self, hidden: mx.array) -> mx.array:
        """The first slot of every row, padded or not: hidden (B, L, D) -> (B, D)."""
        return hidden[:, 0]

    def take(self, hidden: mx.array, slots: mx.array) -> mx.array:
        """One slot a row: hidden (B, L, D), slots (B,) -> (B, D)."""
        return mx.take_along_axis(hidden, slots[:, None, None], axis=1)[:, 0]

    def without_first(self, count: int) -> "TokenBatch":
        """The same rows with their first `count` real tokens masked out (a prompt that pooling leaves out)."""
        mask = self.token_mask(mx.int32)[:, :, 0]
        return replace(self, mask=mx.logical_and(mask, mx.cumsum(mask, axis=1) > count))
