"""Attention to near tokens, but for some that see every token and are seen by every one (Longformer, arXiv 2004.05150).

B texts, L tokens, D hidden, H heads, K = D / H, G the most global tokens of a text, W near tokens on a side.
"""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.local_attention import SharedKeys, attend_locally, local_mask, prepend_shared
from mlx_hf_bridge.layers.token_batch import TokenBatch

GLOBAL_ATTENTION_MASK = "global_attention_mask"


@dataclass(frozen=True)
class GlobalTokens:
    """Which tokens are global (B, L) bool, their slots (B, G), and which of those are there (B, G); real (B, L)."""

    tokens: mx.array
    slots: mx.array
    there: mx.array
    real: mx.array

    def take(self, x: mx.array) -> mx.array:
        """x (B, H, L, K) -> the global tokens' (B, H, G, K)."""
        return mx.take_along_axis(x, self.slots[:, None, :, None], axis=2)

    def put(self, x: mx.array, theirs: mx.array) -> mx.array:
        """x (B, H, L, K) with the global tokens' (B, H, G, K) in their places."""
        rank = mx.maximum(mx.cumsum(self.tokens.astype(mx.int32), axis=1) - 1, 0)[:, None, :, None]
        return mx.where(self.tokens[:, None, :, None], mx.take_along_axis(theirs, rank, axis=2), x)


@dataclass(frozen=True)
class GlobalMask:
    """Real tokens (B, L), None = all; the global ones, None = none."""

    real: mx.array | None
    global_tokens: GlobalTokens | None


def make_global_mask(batch: TokenBatch) -> GlobalMask:
    """What the layers are told of a batch; padding is never global."""
    given = batch.extra_inputs.get(GLOBAL_ATTENTION_MASK)
    if given is None:
        return GlobalMask(batch.mask, None)
    real = mx.ones(given.shape, mx.bool_) if batch.mask is None else batch.mask
    tokens = mx.logical_and(given > 0, real)
    most = int(np.array(tokens).sum(axis=1).max())
    if most == 0:
        return GlobalMask(batch.mask, None)
    length = tokens.shape[1]
    slots = mx.sort(mx.where(tokens, mx.arange(length)[None], length), axis=1)[:, :most]
    return GlobalMask(batch.mask, GlobalTokens(tokens, mx.minimum(slots, length - 1), slots < length, real))


class LocalGlobalAttention(nn.Module):
    """x (B, L, D), mask (B, 1, 1, L) True = visible, the batch's marks -> (B, L, D); padding attends to nothing.

    Global tokens have products of their own for what they see; others see them through the usual ones.
    """

    def __init__(self, hidden_size: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window, self.scale = heads, window, (hidden_size // heads) ** -0.5
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.global_query = Linear(hidden_size, hidden_size)
        self.global_kv = Linear(hidden_size, 2 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None, marks: GlobalMask) -> mx.array:
        queries, keys, values = self._heads(self.qkv(x), 3)
        near, shared = self._near(mask, marks), self._shared(keys, values, marks)
        mixed = attend_locally(queries, keys, values, self.scale, near, self.window, shared)
        if (found := marks.global_tokens) is not None:
            mixed = found.put(mixed, attend(*self._globals(x, found), self.scale, mask, None))
        return self.out(merge_heads(_of_real(mixed, marks)))

    def with_weights(self, x: mx.array, mask: mx.array | None, marks: GlobalMask) -> tuple[mx.array, ...]:
        """The same in L x L, with the weights as transformers has them.

        Of each token those of the G global ones and of the W before it, itself and the W behind it (B, H, L, G + 2 W
        + 1), 0 for padding and for global tokens; and where there are global tokens theirs of every token (B, H, L, G),
        0 where a text has fewer.
        """
        length, found = x.shape[1], marks.global_tokens
        queries, keys, values = self._heads(self.qkv(x), 3)
        seen = local_mask(length, self.window, self._near(mask, marks))
        keys, values, seen = prepend_shared(keys, values, seen, self._shared(keys, values, marks))
        mixed, weights = attend_with_weights(queries, keys, values, self.scale, seen, None)
        count = weights.shape[-1] - length
        weights = mx.concatenate([weights[..., :count], self._diagonals(weights[..., count:])], axis=-1)
        if found is None:
            return self.out(merge_heads(_of_real(mixed, marks))), _of_real(weights, marks)
        theirs, global_weights = attend_with_weights(*self._globals(x, found), self.scale, mask, None)
        weights = mx.where(found.tokens[:, None, :, None], 0, _of_real(weights, marks))
        mixed = _of_real(found.put(mixed, theirs), marks)
        global_weights = mx.where(found.there[:, None, :, None], global_weights, 0)
        return self.out(merge_heads(mixed)), weights, global_weights.swapaxes(-1, -2)

    def _heads(self, products: mx.array, parts: int) -> list[mx.array]:
        return [split_heads(part, self.heads) for part in mx.split(products, parts, axis=-1)]

    def _near(self, mask: mx.array | None, marks: GlobalMask) -> mx.array | None:
        """The mask of near tokens: global ones are seen as shared."""
        if marks.global_tokens is None:
            return mask
        others = mx.logical_not(marks.global_tokens.tokens)[:, None, None]
        return others if mask is None else mx.logical_and(mask, others)

    def _shared(self, keys: mx.array, values: mx.array, marks: GlobalMask) -> SharedKeys | None:
        found = marks.global_tokens
        if found is None:
            return None
        return SharedKeys(found.take(keys), found.take(values), found.there[:, None, None])

    def _globals(self, x: mx.array, found: GlobalTokens) -> tuple[mx.array, mx.array, mx.array]:
        """Queries of the global tokens (B, H, G, K), and keys and values of all (B, H, L, K)."""
        chosen = mx.take_along_axis(x, found.slots[:, :, None], axis=1)
        keys, values = self._heads(self.global_kv(x), 2)
        return split_heads(self.global_query(chosen), self.heads), keys, values

    def _diagonals(self, weights: mx.array) -> mx.array:
        """weights (B, H, L, L) -> those of near tokens (B, H, L, 2 W + 1), 0 beyond the row."""
        window, length = self.window, weights.shape[-1]
        padded = mx.pad(weights, [(0, 0), (0, 0), (0, 0), (window, window)])
        near = mx.arange(length)[:, None] + mx.arange(2 * window + 1)[None]
        return mx.take_along_axis(padded, mx.broadcast_to(near, (*weights.shape[:3], 2 * window + 1)), axis=-1)


def _of_real(x: mx.array, marks: GlobalMask) -> mx.array:
    """x (B, H, L, ...) -> the same, 0 for padding."""
    return x if marks.real is None else mx.where(marks.real[:, None, :, None], x, 0)
