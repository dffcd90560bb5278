"""Attention beside a convolution whose kernel each token makes of its neighbours (Jiang et al., arXiv 2008.02496).

B texts, L tokens, D hidden, H heads, K width of a head, A = H x K = D / 2, W width of the kernel.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear


class Kernel(nn.Module):
    """The weights of a convolution, as torch lays them out: (outputs, inputs of a group, W)."""

    def __init__(self, outputs: int, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs, width))


class SeparableConvolution(nn.Module):
    """x (B, L, D) -> each feature mixed over W tokens, then features into A (B, L, A)."""

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.depthwise = Kernel(inputs, 1, width)
        self.pointwise = Kernel(outputs, inputs, 1)
        self.bias = mx.zeros((outputs, 1))

    def __call__(self, x: mx.array) -> mx.array:
        features, _, width = self.depthwise.weight.shape
        mixed = mx.conv1d(x, self.depthwise.weight.swapaxes(1, 2), padding=width // 2, groups=features)
        return mixed @ self.pointwise.weight[:, :, 0].T + self.bias[:, 0]


class MixedAttention(nn.Module):
    """x (B, L, D), mask (B, 1, 1, L) True = visible -> H heads of attention and H of convolution (B, L, D).

    The convolution sees padding: a text's answer depends on what stands beside its ends.
    """

    def __init__(self, hidden_size: int, heads: int, width: int) -> None:
        super().__init__()
        size = heads * (hidden_size // heads // 2)
        self.heads = heads
        self.scale = (size // heads) ** -0.5
        self.qkv = Linear(hidden_size, 3 * size)
        self.near_keys = SeparableConvolution(hidden_size, size, width)
        self.kernel = Linear(size, heads * width)
        self.near_values = Linear(hidden_size, size)
        self.out = Linear(2 * size, hidden_size)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        queries, keys, values = self._parts(x)
        mixed = attend(*self._split(queries, keys, values), self.scale, mask, bias)
        return self._joined(x, queries, mixed)

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """The same, with the attention weights (B, H, L, L) spelled out."""
        queries, keys, values = self._parts(x)
        mixed, weights = attend_with_weights(*self._split(queries, keys, values), self.scale, mask, bias)
        return self._joined(x, queries, mixed), weights

    def _parts(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = mx.split(self.qkv(x), 3, axis=-1)  # (B, L, A) each
        return queries, keys, values

    def _split(self, *parts: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = (split_heads(part, self.heads) for part in parts)  # (B, H, L, K) each
        return queries, keys, values

    def _joined(self, x: mx.array, queries: mx.array, mixed: mx.array) -> mx.array:
        return self.out(mx.concatenate([merge_heads(mixed), self._convolved(x, queries)], axis=-1))

    def _convolved(self, x: mx.array, queries: mx.array) -> mx.array:
        """x (B, L, D), queries (B, L, A) -> neighbours' values, mixed by each token's own kernel (B, L, A)."""
        batch, length, _ = x.shape
        kernel = self.kernel(self.near_keys(x) * queries).reshape(batch, length, self.heads, -1)
        kernel = mx.softmax(kernel, axis=-1, precise=True)  # (B, L, H, W)
        width = kernel.shape[-1]
        values = mx.pad(self.near_values(x), [(0, 0), (width // 2, width // 2), (0, 0)])
        values = values.reshape(batch, -1, self.heads, values.shape[-1] // self.heads)  # (B, L + W - 1, H, K)
        shifted = (kernel[..., step : step + 1] * values[:, step : step + length] for step in range(width))
        total = next(shifted)
        for term in shifted:
            total = total + term
        return total.reshape(batch, length, -1)
