"""Multi-head self-attention (Vaswani et al., arXiv 1706.03762) with one product for queries, keys and values.

B texts, L tokens, D hidden, H heads, K = D / H.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.fast_math import LOG2_E, exp2_nonpositive
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.runtime.device import uses_cpu_attention


def relative_buckets(length: int, buckets: int, max_distance: int) -> mx.array:
    """T5's two-sided buckets of key minus query place (arXiv 1910.10683, section 2.1) -> (L, L) int32."""
    places = mx.arange(length, dtype=mx.int32)
    behind = places[:, None] - places[None, :]
    half = buckets // 2
    exact = half // 2
    distance = mx.abs(behind)
    far = mx.log(mx.maximum(distance, 1).astype(mx.float32) / exact) / math.log(max_distance / exact) * (half - exact)
    coarse = mx.minimum(exact + far.astype(mx.int32), half - 1)
    return mx.where(behind < 0, half, 0) + mx.where(distance < exact, distance, coarse)


def _additive(mask: mx.array | None, bias: mx.array | None, dtype: mx.Dtype) -> mx.array | None:
    """What is added to the scores. -inf is safe, since a mask leaves every query something to see."""
    if bias is None:
        return mask
    bias = bias.astype(dtype)
    return bias if mask is None else mx.where(mask, bias, mx.array(-mx.inf, dtype))


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None, bias: mx.array | None
) -> mx.array:
    """queries, keys, values (B, H, L, K), mask and bias as in Attention -> values mixed (B, H, L, K)."""
    scores = queries.shape[0] * queries.shape[1] * queries.shape[2] * keys.shape[2]
    if uses_cpu_attention(scores) and queries.dtype == mx.float32:
        return cpu_attention(queries, keys, values, scale, mask, bias)
    added = _additive(mask, bias, queries.dtype)
    return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=added)


def attend_with_weights(
    queries: mx.array,
    keys: mx.array,
    values: mx.array,
    scale: float,
    mask: mx.array | None,
    bias: mx.array | None,
    cap: float | None = None,
) -> tuple[mx.array, mx.array]:
    """The same, with the attention weights (B, H, L, L) spelled out; scores stay between -cap and cap by tanh."""
    scores = (queries * scale) @ keys.swapaxes(-1, -2)
    if cap is not None:
        scores = mx.tanh(scores / cap) * cap
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if mask is not None:
        scores = mx.where(mask, scores, mx.array(-mx.inf, scores.dtype))
    weights = mx.softmax(scores, axis=-1, precise=True)
    return weights @ values, weights


def split_heads(x: mx.array, heads: int) -> mx.array:
    """x (B, L, H x K) -> (B, H, L, K)."""
    batch, length, _ = x.shape
    return x.reshape(batch, length, heads, -1).swapaxes(1, 2)


def merge_heads(mixed: mx.array) -> mx.array:
    """mixed (B, H, L, K) -> (B, L, H x K)."""
    batch, _, length, _ = mixed.shape
    return mixed.swapaxes(1, 2).reshape(batch, length, -1)


class Attention(nn.Module):
    """x (B, L, D), mask (B, 1, 1 or L, L) True = visible, bias (1, H, L, L) added to scores -> (B, L, D).

    head_dim: K where it is not D / H; `scaled` False leaves scores as they are (T5), not divided by the root of K.
    """

    def __init__(
        self, hidden_size: int, heads: int, head_dim: int | None = None, bias: bool = True, scaled: bool = True
    ) -> None:
        super().__init__()
        width = heads * (head_dim or hidden_size // heads)
        self.heads = heads
        self.scale = (width // heads) ** -0.5 if scaled else 1.0
        self.qkv = Linear(hidden_size, 3 * width, bias)
        self.out = Linear(width, hidden_size, bias)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        queries, keys, values = self._heads(x)
        return self.out(merge_heads(attend(queries, keys, values, self.scale, mask, bias)))

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """The same, with the attention weights (B, H, L, L) spelled out."""
        queries, keys, values = self._heads(x)
        mixed, weights = attend_with_weights(queries, keys, values, self.scale, mask, bias)
        return self.out(merge_heads(mixed)), weights

    def first_token(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        """The same for the first slot of each text alone -> (B, 1, D)."""
        queries, keys, values = self._heads(x)
        mask, bias = (None if term is None else term[:, :, :1] for term in (mask, bias))
        return self.out(merge_heads(attend(queries[:, :, :1], keys, values, self.scale, mask, bias)))

    def _heads(self, x: mx.array) -> list[mx.array]:
        return [split_heads(part, self.heads) for part in mx.split(self.qkv(x), 3, axis=-1)]  # (B, H, L, K) each


# Scores (B, H, C, L) of one block: 32 MiB in float32, of which a few lie in memory at once.
_MOST_SCORES = 2**23


def cpu_attention(
    queries: mx.array, keys: mx.array, values: mx.array, scale: float, mask: mx.array | None, bias: mx.array | None
) -> mx.array:
    """queries (B, H, L, K), keys and values (B, H / G, L, K), all float32 -> values mixed (B, H, L, K).

    mask (B or 1, 1 or H, 1 or L, L) True = visible, or floats to be added; bias (1 or B, 1 or H, L, L) is added.
    Every query must see a key. Memory grows with L, not with its square.
    """
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = mx.repeat(keys, shared, axis=1), mx.repeat(values, shared, axis=1)
    queries, keys = queries * scale, keys.swapaxes(-1, -2)
    added = _added(mask, bias)
    length = queries.shape[2]
    rows = max(1, _MOST_SCORES // (queries.shape[0] * queries.shape[1] * keys.shape[-1]))
    if rows >= length:
        return _mixed(queries, keys, values, added)
    blocks = [
        _mixed(queries[:, :, start : start + rows], keys, values, [_rows(term, start, rows) for term in added])
        for start in range(0, length, rows)
    ]
    return mx.concatenate(blocks, axis=2)


def _added(mask: mx.array | None, bias: mx.array | None) -> list[mx.array]:
    """What is added to the scores. -inf is safe, since every query sees a key."""
    added = [] if bias is None else [bias.astype(mx.float32)]
    if mask is not None:
        added.append(mx.where(mask, 0.0, -mx.inf) if mask.dtype == mx.bool_ else mask.astype(mx.float32))
    return added


def _rows(term: mx.array, start: int, rows: int) -> mx.array:
    return term if term.shape[2] == 1 else term[:, :, start : start + rows]


def _mixed(queries: mx.array, keys: mx.array, values: mx.array, added: list[mx.array]) -> mx.array:
    scores = queries @ keys  # (B, H, C, L)
    for term in added:
        scores = scores + term
    # The factor comes last: before, it would round large scores, whose differences are what counts.
    powers = exp2_nonpositive((scores - scores.max(axis=-1, keepdims=True)) * LOG2_E)
    return (powers @ values) / powers.sum(axis=-1, keepdims=True)
