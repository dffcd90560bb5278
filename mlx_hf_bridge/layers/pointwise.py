"""SqueezeBERT's blocks (Iandola et al., arXiv 2006.11316): products in groups, which are convolutions one token wide.

B texts, L tokens, D hidden, F intermediate, H heads, I inputs, O outputs, G groups.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, merge_heads, split_heads
from mlx_hf_bridge.layers.feed_forward import Activation


class PointwiseConvolution(nn.Module):
    """x (B, L, I) -> (B, L, O): group g of the outputs reads group g of the inputs; weight (O, I / G, 1)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs // groups, 1))
        self.bias = mx.zeros((outputs,))
        self.groups = groups

    def __call__(self, x: mx.array) -> mx.array:
        texts, length, _ = x.shape
        weight = self.weight.reshape(self.groups, -1, self.weight.shape[1])  # (G, O / G, I / G)
        parts = x.reshape(texts * length, self.groups, -1).swapaxes(0, 1)  # (G, B x L, I / G)
        product = parts @ weight.swapaxes(1, 2)  # (G, B x L, O / G)
        return product.swapaxes(0, 1).reshape(texts, length, -1) + self.bias


class PointwiseAttention(nn.Module):
    """x (B, L, D), mask (B, 1, 1, L) True = visible -> (B, L, D)."""

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, out: nn.Module, heads: int, scale: float
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = query, key, value, out
        self.heads, self.scale = heads, scale

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        mixed: mx.array = self.out(merge_heads(attend(*self._heads(x), self.scale, mask, bias)))
        return mixed

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """The same, with what transformers gives as attentions: scores (B, H, L, L) that are not yet weights."""
        queries, keys, _ = self._heads(x)
        scores = (queries * self.scale) @ keys.swapaxes(-1, -2)
        if mask is not None:
            scores = mx.where(mask, scores, mx.array(mx.finfo(scores.dtype).min, scores.dtype))
        return self(x, mask, bias), scores

    def _heads(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return queries, keys, values


class PointwiseFeedForward(nn.Module):
    """x (B, L, D) -> up to (B, L, F), activation, down to (B, L, D)."""

    def __init__(self, up: nn.Module, down: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.up, self.down, self.activation = up, down, activation

    def __call__(self, x: mx.array) -> mx.array:
        lowered: mx.array = self.down(self.activation(self.up(x)))
        return lowered
