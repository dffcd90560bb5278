"""ConvBERT's mixed attention: half of the heads attend, the other half convolve with kernels that each token generates.

Source: Jiang et al., "ConvBERT", arXiv 2008.02496.

Axes: B texts, L tokens, D hidden size, H heads of each kind, K head width, A width of each kind (H x K = D / 2), W
kernel width.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.attention import attend, attend_with_weights, merge_heads, split_heads
from mlx_hf_bridge.layers.linear import Linear


class Kernel(nn.Module):
    """Weights of a 1D convolution in torch's layout, (outputs, inputs of a group, W); it has no `__call__`.

    Args:
        outputs: Output channels.
        inputs: Input channels of a group.
        width: W.
    """

    def __init__(self, outputs: int, inputs: int, width: int) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs, width))


class SeparableConvolution(nn.Module):
    """A depthwise convolution over W tokens, then a pointwise one from D to A features.

    Takes x (B, L, D) and returns (B, L, A).

    Args:
        inputs: D.
        outputs: A.
        width: W.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.depthwise = Kernel(inputs, 1, width)
        self.pointwise = Kernel(outputs, inputs, 1)
        self.bias = mx.zeros((outputs, 1))

    def __call__(self, x: mx.array) -> mx.array:
        features, _, width = self.depthwise.weight.shape
        # MLX's weights are (outputs, W, inputs), torch's (outputs, inputs, W). One group per feature makes it
        # depthwise.
        convolved = mx.conv1d(x, self.depthwise.weight.swapaxes(1, 2), padding=width // 2, groups=features)
        # A convolution one token wide is a matmul.
        return convolved @ self.pointwise.weight[:, :, 0].T + self.bias[:, 0]


class MixedAttention(nn.Module):
    """Self-attention and dynamic convolution side by side, H heads each.

    Takes x (B, L, D), mask (B, 1, 1, L) with True for visible keys or None, and a bias that is added to the scores or
    None. Returns (B, L, D). The convolution reads padded positions, so outputs near a text's end depend on the padding.

    Args:
        hidden_size: D.
        heads: H.
        width: Kernel width, W.
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
        attended = attend(*self._split(queries, keys, values), self.scale, mask, bias)
        return self._combine(x, queries, attended)

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with the weights of its attention heads.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1, L), or None.
            bias: Added to the scores, (1, H, L, L), or None.

        Returns:
            The output (B, L, D) and the attention weights (B, H, L, L).
        """
        queries, keys, values = self._parts(x)
        attended, weights = attend_with_weights(*self._split(queries, keys, values), self.scale, mask, bias)
        return self._combine(x, queries, attended), weights

    def _parts(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = mx.split(self.qkv(x), 3, axis=-1)  # (B, L, A) each
        return queries, keys, values

    def _split(self, *parts: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = (split_heads(part, self.heads) for part in parts)  # (B, H, L, K) each
        return queries, keys, values

    def _combine(self, x: mx.array, queries: mx.array, attended: mx.array) -> mx.array:
        return self.out(mx.concatenate([merge_heads(attended), self._convolve(x, queries)], axis=-1))

    def _convolve(self, x: mx.array, queries: mx.array) -> mx.array:
        """Return neighboring values, weighted by each token's own kernel, (B, L, A), from queries (B, L, A)."""
        batch, length, _ = x.shape
        kernel = self.kernel(self.near_keys(x) * queries).reshape(batch, length, self.heads, -1)
        kernel = mx.softmax(kernel, axis=-1, precise=True)  # (B, L, H, W)
        width = kernel.shape[-1]
        # Zeros beyond the ends of the row, as torch's unfold pads. Padded tokens are not masked: the length changes
        # results.
        values = mx.pad(self.near_values(x), [(0, 0), (width // 2, width // 2), (0, 0)])
        values = values.reshape(batch, -1, self.heads, values.shape[-1] // self.heads)  # (B, L + W - 1, H, K)
        # W shifted products instead of an unfolded copy of the values, which would be W times as large.
        shifted = (kernel[..., step : step + 1] * values[:, step : step + length] for step in range(width))
        total = next(shifted)
        for term in shifted:
            total = total + term
        return total.reshape(batch, length, -1)
