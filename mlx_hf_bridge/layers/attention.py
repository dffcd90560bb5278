"""Multi-head self-attention (Vaswani et al., arXiv 1706.03762) with one product for queries, keys and values.

B texts, L tokens, D hidden, H heads, K = D / H.
"""

import math

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.linear import Linear


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


class Attention(nn.Module):
    """x (B, L, D), mask (B, 1, 1 or L, L) True = visible, bias (1, H, L, L) added to scores -> (B, L, D)."""

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (hidden_size // heads) ** -0.5
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.out = Linear(hidden_size, hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        queries, keys, values = self._heads(x)
        mixed = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=self.scale, mask=_additive(mask, bias, x.dtype)
        )
        return self._merge(mixed)

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """The same, with the attention weights (B, H, L, L) spelled out."""
        queries, keys, values = self._heads(x)
        scores = (queries * self.scale) @ keys.swapaxes(-1, -2)
        if bias is not None:
            scores = scores + bias.astype(x.dtype)
        if mask is not None:
            scores = mx.where(mask, scores, mx.array(-mx.inf, x.dtype))
        weights = mx.softmax(scores, axis=-1, precise=True)
        return self._merge(weights @ values), weights

    def _heads(self, x: mx.array) -> list[mx.array]:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, -1)  # (B, L, 3, H, K)
        return [qkv[:, :, part].swapaxes(1, 2) for part in range(3)]  # (B, H, L, K) each

    def _merge(self, mixed: mx.array) -> mx.array:
        batch, _, length, _ = mixed.shape
        return self.out(mixed.swapaxes(1, 2).reshape(batch, length, -1))  # (B, L, D)
