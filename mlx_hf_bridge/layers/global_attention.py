"""Longformer's attention: sliding windows, and some tokens with global attention in both directions.

Source: Beltagy et al., arXiv 2004.05150, section 3.1.

Axes: B texts, L tokens, D hidden size, H heads, K head width (D / H), G the most global tokens of a text, W window on
one side.
"""

from dataclasses import dataclass
from functools import reduce

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.local_attention import SharedKeys, attend_locally, local_mask, prepend_shared
from mlx_hf_bridge.layers.token_batch import TokenBatch

GLOBAL_ATTENTION_MASK = "global_attention_mask"
# Tokens that attention_mask marks with 2; they have global attention beside those of global_attention_mask.
MARKED_AS_GLOBAL = "attention_mask with 2"


@dataclass(frozen=True)
class GlobalTokens:
    """Which tokens of a batch have global attention.

    Args:
        tokens: True for global tokens, (B, L), bool.
        positions: Positions of each text's global tokens, (B, G).
        valid: Which of those exist, (B, G), bool: texts may have fewer than G.
    """

    tokens: mx.array
    positions: mx.array
    valid: mx.array

    def take(self, x: mx.array) -> mx.array:
        """Return the rows of the global tokens.

        Args:
            x: (B, H, L, K).

        Returns:
            Array of shape (B, H, G, K).
        """
        return mx.take_along_axis(x, self.positions[:, None, :, None], axis=2)

    def put(self, x: mx.array, rows: mx.array) -> mx.array:
        """Replace the rows of the global tokens.

        Args:
            x: (B, H, L, K).
            rows: Rows of the global tokens, (B, H, G, K).

        Returns:
            Array of shape (B, H, L, K).
        """
        # A global token's index among those of its row. Others get a valid index too, and `where` drops their rows.
        rank = mx.maximum(mx.cumsum(self.tokens.astype(mx.int32), axis=1) - 1, 0)[:, None, :, None]
        return mx.where(self.tokens[:, None, :, None], mx.take_along_axis(rows, rank, axis=2), x)


@dataclass(frozen=True)
class GlobalMask:
    """What Longformer's layers need to know of a batch.

    Args:
        real: True for real tokens, (B, L), bool; None if all are real.
        global_tokens: The tokens with global attention; None if there are none.
    """

    real: mx.array | None
    global_tokens: GlobalTokens | None


def make_global_mask(batch: TokenBatch) -> GlobalMask:
    """Read which tokens the batch gives global attention; padding never has it.

    Args:
        batch: The batch, whose masks are data and not results of a computation.

    Returns:
        The mask for the layers.
    """
    # In numpy, where the batch comes from: the number of global tokens is a shape of what follows, and reading it from
    # an array that a GPU computes would wait for the batches before it.
    given = [
        np.array(batch.extra_inputs[key]) > 0
        for key in (GLOBAL_ATTENTION_MASK, MARKED_AS_GLOBAL)
        if key in batch.extra_inputs
    ]
    if not given:
        return GlobalMask(batch.mask, None)
    tokens = reduce(np.logical_or, given)
    if batch.mask is not None:
        tokens = tokens & np.array(batch.mask)
    most = int(tokens.sum(axis=1).max())
    if most == 0:
        return GlobalMask(batch.mask, None)
    length = tokens.shape[1]
    # Sorting moves the positions of global tokens to the front and `length`, which stands for the others, to the end.
    positions = np.sort(np.where(tokens, np.arange(length, dtype=np.int32)[None], length), axis=1)[:, :most]
    # `length` is clipped to a valid index, because MLX does not check bounds; `valid` excludes these entries.
    clipped = np.minimum(positions, length - 1).astype(np.int32)
    return GlobalMask(batch.mask, GlobalTokens(mx.array(tokens), mx.array(clipped), mx.array(positions < length)))


class LocalGlobalAttention(nn.Module):
    """Longformer's self-attention.

    Takes x (B, L, D), mask (B, 1, 1, L) with True for real tokens or None, and the batch's GlobalMask. Returns
    (B, L, D); outputs of padded positions are those of zeros. Global tokens attend through linear layers of their own;
    other tokens see them through the usual ones.

    Args:
        hidden_size: D.
        heads: Number of heads, H.
        window: Visible tokens on each side, W: half of config.json's `attention_window`.
    """

    def __init__(self, hidden_size: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.scale = heads, window, (hidden_size // heads) ** -0.5
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.global_query = Linear(hidden_size, hidden_size)
        self.global_kv = Linear(hidden_size, 2 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None, context: GlobalMask) -> mx.array:
        queries, keys, values = self._heads(self.qkv(x), 3)
        near, shared = self._near_mask(mask, context), self._shared(keys, values, context)
        attended = attend_locally(queries, keys, values, self.scale, near, self.window, shared)
        if (found := context.global_tokens) is not None:
            attended = found.put(attended, attend(*self._global_heads(x, found), self.scale, _real_keys(context), None))
        return self.out(merge_heads(_zero_padding(attended, context)))

    def with_weights(self, x: mx.array, mask: mx.array | None, context: GlobalMask) -> tuple[mx.array, ...]:
        """Compute the layer with full L x L scores, and return attention weights in the form of transformers.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for real tokens, (B, 1, 1, L), or None.
            context: The batch's global mask.

        Returns:
            The output (B, L, D); each token's weights (B, H, L, G + 2 W + 1) for the global tokens, the W tokens before
            it, itself and the W after it, 0 for padding and for global tokens; and, if there are global tokens, their
            weights for every token (B, H, L, G), 0 where a text has fewer than G.
        """
        length, found = x.shape[1], context.global_tokens
        queries, keys, values = self._heads(self.qkv(x), 3)
        visible = local_mask(length, self.window, self._near_mask(mask, context))
        keys, values, visible = prepend_shared(keys, values, visible, self._shared(keys, values, context))
        attended, weights = attend_with_weights(queries, keys, values, self.scale, visible, None)
        count = weights.shape[-1] - length
        weights = mx.concatenate([weights[..., :count], self._diagonals(weights[..., count:])], axis=-1)
        if found is None:
            return self.out(merge_heads(_zero_padding(attended, context))), _zero_padding(weights, context)
        global_heads = self._global_heads(x, found)
        global_rows, global_weights = attend_with_weights(*global_heads, self.scale, _real_keys(context), None)
        # transformers reports global tokens' rows in global_attentions only, and 0 here.
        weights = mx.where(found.tokens[:, None, :, None], 0, _zero_padding(weights, context))
        attended = _zero_padding(found.put(attended, global_rows), context)
        global_weights = mx.where(found.valid[:, None, :, None], global_weights, 0)
        return self.out(merge_heads(attended)), weights, global_weights.swapaxes(-1, -2)

    def _heads(self, x: mx.array, parts: int) -> list[mx.array]:
        return [split_heads(part, self.heads) for part in mx.split(x, parts, axis=-1)]

    def _near_mask(self, mask: mx.array | None, context: GlobalMask) -> mx.array | None:
        """Return the mask of the window without global tokens, which are among the shared keys."""
        if context.global_tokens is None:
            return mask
        # A global token inside the window would otherwise count twice in the softmax.
        others = mx.logical_not(context.global_tokens.tokens)[:, None, None]
        return others if mask is None else mx.logical_and(mask, others)

    def _shared(self, keys: mx.array, values: mx.array, context: GlobalMask) -> SharedKeys | None:
        found = context.global_tokens
        if found is None:
            return None
        return SharedKeys(found.take(keys), found.take(values), found.valid[:, None, None])

    def _global_heads(self, x: mx.array, found: GlobalTokens) -> tuple[mx.array, mx.array, mx.array]:
        """Return queries of the global tokens (B, H, G, K), and keys and values of all tokens (B, H, L, K)."""
        chosen = mx.take_along_axis(x, found.positions[:, :, None], axis=1)
        keys, values = self._heads(self.global_kv(x), 2)
        return split_heads(self.global_query(chosen), self.heads), keys, values

    def _diagonals(self, weights: mx.array) -> mx.array:
        """Return the weights (B, H, L, L) of each token's window, (B, H, L, 2 W + 1), 0 beyond the text's ends."""
        window, length = self.window, weights.shape[-1]
        padded = mx.pad(weights, [(0, 0), (0, 0), (0, 0), (window, window)])
        # transformers' form: column j is the key at distance j - window, instead of the key at position j.
        near = mx.arange(length)[:, None] + mx.arange(2 * window + 1)[None]
        return mx.take_along_axis(padded, mx.broadcast_to(near, (*weights.shape[:3], 2 * window + 1)), axis=-1)


def _real_keys(context: GlobalMask) -> mx.array | None:
    """Return the mask of the keys that global tokens see, (B, 1, 1, L); `mask` may have a row for every query."""
    return None if context.real is None else context.real[:, None, None]


def _zero_padding(x: mx.array, context: GlobalMask) -> mx.array:
    """Return x (B, H, L, ...) with 0 at padded positions."""
    return x if context.real is None else mx.where(context.real[:, None, :, None], x, 0)
