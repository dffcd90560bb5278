"""SqueezeBERT's blocks, whose linear layers work in groups and are stored as convolutions one token wide.

Source: Iandola et al., "SqueezeBERT", arXiv 2006.11316.

Axes: B texts, L tokens, D hidden size, F intermediate size, H heads, I inputs, O outputs, G groups.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation
from mlx_hf_bridge.layers.attention import attend, merge_heads, split_heads


class PointwiseConvolution(nn.Module):
    """A grouped convolution one token wide: group g of the outputs reads only group g of the inputs.

    Takes x (B, L, I) and returns (B, L, O). The weight has torch's shape (O, I / G, 1).

    Args:
        inputs: I.
        outputs: O.
        groups: G.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs // groups, 1))
        self.bias = mx.zeros((outputs,))
        self.groups = groups

    def __call__(self, x: mx.array) -> mx.array:
        texts, length, _ = x.shape
        weight = self.weight.reshape(self.groups, -1, self.weight.shape[1])  # (G, O / G, I / G)
        # A convolution one token wide is a matmul, and its groups are the batch axis.
        parts = x.reshape(texts * length, self.groups, -1).swapaxes(0, 1)  # (G, B x L, I / G)
        outputs = parts @ weight.swapaxes(1, 2)  # (G, B x L, O / G)
        return outputs.swapaxes(0, 1).reshape(texts, length, -1) + self.bias


class PointwiseAttention(nn.Module):
    """Self-attention whose projections are pointwise convolutions.

    Takes x (B, L, D), mask (B, 1, 1, L) with True for visible keys or None, and a bias that is added to the scores or
    None. Returns (B, L, D).

    Args:
        query: Projection to queries, (B, L, D) -> (B, L, D).
        key: Projection to keys.
        value: Projection to values.
        out: Projection of the attention output.
        heads: H.
        scale: Factor of the scores.
    """

    def __init__(
        self, query: nn.Module, key: nn.Module, value: nn.Module, out: nn.Module, heads: int, scale: float
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = query, key, value, out
        self.heads, self.scale = heads, scale

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None) -> mx.array:
        attended: mx.array = self.out(merge_heads(attend(*self._heads(x), self.scale, mask, bias)))
        return attended

    def with_weights(
        self, x: mx.array, mask: mx.array | None, bias: mx.array | None = None
    ) -> tuple[mx.array, mx.array]:
        """Compute the layer together with its scores, which transformers returns as SqueezeBERT's attentions.

        Args:
            x: Hidden states, (B, L, D).
            mask: True for visible keys, (B, 1, 1, L), or None.
            bias: Added to the scores, or None.

        Returns:
            The output (B, L, D) and the scores before softmax, (B, H, L, L).
        """
        queries, keys, _ = self._heads(x)
        scores = (queries * self.scale) @ keys.swapaxes(-1, -2)
        if mask is not None:
            # These are returned, not normalized, so masked ones hold the dtype's minimum as in transformers, and not
            # -inf.
            lowest = mx.array(mx.finfo(scores.dtype).min, scores.dtype)
            added = mx.where(mask, scores, lowest) if mask.dtype == mx.bool_ else mx.maximum(scores + mask, lowest)
            scores = added.astype(scores.dtype)
        return self(x, mask, bias), scores

    def _heads(self, x: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        queries, keys, values = (split_heads(part(x), self.heads) for part in (self.query, self.key, self.value))
        return queries, keys, values


class PointwiseFeedForward(nn.Module):
    """A feed-forward block of two pointwise convolutions.

    Takes x (B, L, D) and returns (B, L, D).

    Args:
        up: Projection to F features.
        down: Projection back to D features.
        activation: Function between the two.
    """

    def __init__(self, up: nn.Module, down: nn.Module, activation: Activation) -> None:
        super().__init__()
        self.up, self.down, self.activation = up, down, activation

    def __call__(self, x: mx.array) -> mx.array:
        lowered: mx.array = self.down(self.activation(self.up(x)))
        return lowered
