"""A batch of token sequences, and the masks and positions that layers derive from it.

Axes: B texts, L tokens, H heads, D hidden size, E embedding width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class TokenBatch:
    """Padded token sequences, and the only class that knows how they are laid out in memory.

    Args:
        ids: Token ids, (B, L), int32.
        mask: True for real tokens and False for padding, (B, L), bool; None if all tokens are real.
        token_type_ids: Token type ids, (B, L), int32; None means that all are 0.
        position_ids: Positions, (B, L), int32; None means that they follow from the row.
        inputs_embeds: Embeddings to use instead of the token embedding table, (B, L, E); None to look `ids` up.
        attention_bias: Numbers to add to the attention scores instead of the mask that follows from `mask`, (1 or B,
            1 or H, 1 or L, L); -inf hides a key, and a query from which all are hidden gets zeros. None for no such.
        has_empty_rows: Whether a row of `mask` is known to be all padding.
        extra_inputs: Model-specific inputs by their names in transformers (`langs`, `bbox`), (B, L) or (B, L, ...).
        has_no_empty_rows: Whether every row of `mask` is known to have a token, which saves a look at it.
    """

    ids: mx.array
    mask: mx.array | None = None
    token_type_ids: mx.array | None = None
    position_ids: mx.array | None = None
    inputs_embeds: mx.array | None = None
    attention_bias: mx.array | None = None
    has_empty_rows: bool = False
    extra_inputs: Mapping[str, mx.array] = field(default_factory=dict)
    has_no_empty_rows: bool = False

    def embed(self, table: Callable[[mx.array], mx.array]) -> mx.array:
        """Return the token embeddings.

        Args:
            table: Maps ids (B, L) to embeddings (B, L, E).

        Returns:
            `inputs_embeds` if the caller gave them, otherwise the table's embeddings of `ids`, (B, L, E).
        """
        return table(self.ids) if self.inputs_embeds is None else self.inputs_embeds

    def key_mask(self) -> mx.array | None:
        """Return the bidirectional attention mask.

        Returns:
            Bool array of shape (B, 1, 1, L), True for keys that may be attended to, or None if all may be; of shape
            (B, 1, L, L) if a row is known to be all padding, whose queries then see none. The caller's
            `attention_bias`, if there is one.
        """
        if self.attention_bias is not None:
            return self.attention_bias
        if self.mask is None:
            return None
        if self.has_empty_rows:
            return mx.broadcast_to(self.mask[:, None, None, :], (len(self.ids), 1, *(self.ids.shape[1],) * 2))
        if self.has_no_empty_rows:
            return self.mask[:, None, None, :]
        # Without that knowledge a row of padding sees all its keys: with none, its softmax would be NaN.
        nothing = mx.logical_not(self.mask.any(axis=1, keepdims=True))
        return mx.logical_or(self.mask, nothing)[:, None, None, :]

    def causal_mask(self) -> mx.array:
        """Return the causal attention mask.

        Returns:
            Bool array of shape (1 or B, 1, L, L), True for real tokens at or before the query's position. A padded
            query may see none. Floats to add if there is an `attention_bias`; one with a row for each query replaces
            this mask.
        """
        positions = mx.arange(self.ids.shape[1], dtype=mx.int32)
        visible = (positions[:, None] >= positions[None, :])[None, None]
        if self.attention_bias is not None:
            per_query = self.attention_bias.shape[2] > 1
            return self.attention_bias if per_query else mx.where(visible, self.attention_bias, -mx.inf)
        return visible if self.mask is None else mx.logical_and(visible, self.mask[:, None, None, :])

    def positions(self) -> mx.array:
        """Return position ids that count every position of the row from 0, padding included (BERT).

        Returns:
            int32 array of shape (1, L), or the caller's `position_ids`, (B, L).
        """
        if self.position_ids is not None:
            return self.position_ids
        return mx.arange(self.ids.shape[1], dtype=mx.int32)[None]

    def positions_after(self, pad_token_id: int) -> mx.array:
        """Return position ids that count tokens other than padding from `pad_token_id` + 1 on (RoBERTa).

        Args:
            pad_token_id: Id of the padding token; padding gets this position.

        Returns:
            int32 array of shape (B, L), or the caller's `position_ids`.
        """
        if self.position_ids is not None:
            return self.position_ids
        real = (self.ids != pad_token_id).astype(mx.int32)
        # Padding stays at pad_token_id; the first real token is one above it.
        return mx.cumsum(real, axis=1) * real + pad_token_id

    def token_mask(self, dtype: mx.Dtype) -> mx.array:
        """Return the padding mask, ready to be multiplied with hidden states.

        Args:
            dtype: Dtype of the result.

        Returns:
            Array of shape (B, L, 1), 1 for real tokens and 0 for padding.
        """
        if self.mask is None:
            return mx.ones((*self.ids.shape, 1), dtype)
        return self.mask[:, :, None].astype(dtype)

    def first_tokens(self, hidden: mx.array) -> mx.array:
        """Return the hidden state at position 0 of every row, even if it is padding.

        Args:
            hidden: Hidden states, (B, L, D).

        Returns:
            Hidden states of shape (B, D).
        """
        # transformers reads position 0 also where a row is padded on the left.
        return hidden[:, 0]

    def take(self, hidden: mx.array, positions: mx.array) -> mx.array:
        """Return the hidden state at one position of every row.

        Args:
            hidden: Hidden states, (B, L, D).
            positions: Index of each row's position, (B,), int32; beyond L - 1 the last one is taken.

        Returns:
            Hidden states of shape (B, D).
        """
        # A traced graph may have fewer positions than tokens, and MLX would read beyond them.
        positions = mx.minimum(positions, hidden.shape[1] - 1)
        return mx.take_along_axis(hidden, positions[:, None, None], axis=1)[:, 0]

    def padded(self, length: int) -> "TokenBatch":
        """Return the batch with all of its inputs padded on the right, for models that cannot compute shorter texts.

        Args:
            length: Tokens of a row, at least.

        Returns:
            The batch, unchanged if it is long enough.
        """
        more = [(0, 0), (0, length - self.ids.shape[1])]
        if more[1][1] <= 0:
            return self
        found = mx.ones(self.ids.shape, mx.bool_) if self.mask is None else self.mask
        return replace(
            self,
            ids=mx.pad(self.ids, more),
            mask=mx.pad(found, more),
            token_type_ids=None if self.token_type_ids is None else mx.pad(self.token_type_ids, more),
            position_ids=None if self.position_ids is None else mx.pad(self.position_ids, more),
            inputs_embeds=None if self.inputs_embeds is None else mx.pad(self.inputs_embeds, [*more, (0, 0)]),
            attention_bias=None,
        )

    def without_first(self, count: int) -> "TokenBatch":
        """Return the batch with the first `count` real tokens of every row masked out.

        Pooling uses it for `include_prompt=False`, which excludes the prompt's tokens.

        Args:
            count: Number of tokens to mask.

        Returns:
            A new batch; only its mask differs.
        """
        mask = self.token_mask(mx.int32)[:, :, 0]
        return replace(self, mask=mx.logical_and(mask, mx.cumsum(mask, axis=1) > count))

    def padded_to(self, texts: int, tokens: int, pad_token_id: int) -> "TokenBatch":
        """Return the batch with padding at the end of each text, and with the last text repeated.

        Args:
            texts: Number of texts in the result, B or more.
            tokens: Number of tokens in the result, L or more.
            pad_token_id: Id of padding.

        Returns:
            A batch of shape (texts, tokens); this one if it has that shape. Only ids, mask, token type ids and
            positions are kept.
        """
        rows, length = self.ids.shape
        if (rows, length) == (texts, tokens):
            return self

        # In numpy, where batches come from: no kernels, and no wait for a GPU.
        def padded(array: mx.array | None, filler: int) -> mx.array | None:
            if array is None:
                return None
            wider = np.pad(np.asarray(array), ((0, 0), (0, tokens - length)), constant_values=filler)
            return mx.array(np.pad(wider, ((0, texts - rows), (0, 0)), mode="edge"))

        mask = mx.array(np.ones((rows, length), bool)) if self.mask is None and tokens > length else self.mask
        ids = padded(self.ids, pad_token_id)
        assert ids is not None
        return TokenBatch(ids, padded(mask, 0), padded(self.token_type_ids, 0), padded(self.position_ids, 0))
