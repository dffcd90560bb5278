"""The feed-forward blocks that follow attention.

Sources: the block of Vaswani et al. (arXiv 1706.03762, section 3.3); gated blocks, Shazeer (arXiv 2002.05202).

Axes: B texts, L tokens, D hidden size, F intermediate size, I inputs, O outputs, G groups.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import Activation
from mlx_hf_bridge.layers.linear import Linear

# In float16, blocks with results beyond its range compute them divided by this: a power of two, which only moves the
# exponent. T5's reach 10^5; a 64th of float16's smallest normal number is below its rounding error there.
_DOWNSCALE = 64.0


class FeedForward(nn.Module):
    """A feed-forward block: linear layer, activation, linear layer.

    Takes x (B, L, D) and returns (B, L, D).

    Args:
        hidden_size: D.
        intermediate_size: Width between the two layers, F.
        activation: Function between the two layers.
        bias: Whether the linear layers have a bias.
        exceeds_float16: Whether results may be beyond float16's range, so that a float16 model returns float32.
        down_bias: Whether the second one has; None for the value of `bias`.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
        bias: bool = True,
        exceeds_float16: bool = False,
        down_bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias if down_bias is None else down_bias)
        self.activation = activation
        self.exceeds_float16 = exceeds_float16

    def __call__(self, x: mx.array) -> mx.array:
        hidden = self.activation(self.up(x))
        if self.exceeds_float16 and x.dtype == mx.float16:
            return _in_float32(self.down, hidden * (1 / _DOWNSCALE))
        return self.down(hidden)


class GatedFeedForward(nn.Module):
    """A gated feed-forward block (GLU): down(activation(gate(x)) * up(x)), with gate and up in one linear layer.

    Takes x (B, L, D) and returns (B, L, D). Source: Shazeer, arXiv 2002.05202.

    Args:
        hidden_size: D.
        intermediate_size: Width of the gate, F.
        activation: Activation of the gate.
        bias: Whether the fused gate and up layer has a bias.
        down_bias: Whether the down layer has a bias; None for the value of `bias`.
        gate_last: Whether the gate is the second half of the fused layer (GTE) instead of the first.
        exceeds_float16: Whether results may be beyond float16's range, so that a float16 model returns float32.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
        bias: bool = False,
        down_bias: bool | None = None,
        gate_last: bool = False,
        exceeds_float16: bool = False,
    ) -> None:
        super().__init__()
        # One matmul instead of two that read the same input.
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias if down_bias is None else down_bias)
        self.activation = activation
        self.gate_last = gate_last
        self.exceeds_float16 = exceeds_float16

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)  # (B, L, F) each
        # Model types differ in which half of the fused tensor is activated.
        if self.gate_last:
            gate, up = up, gate
        if self.exceeds_float16 and x.dtype == mx.float16:
            # Divided before they are multiplied: the product may be beyond the range as well.
            return _in_float32(self.down, self.activation(gate) * (up * (1 / _DOWNSCALE)))
        return self.down(self.activation(gate) * up)


def _in_float32(down: nn.Module, hidden: mx.array) -> mx.array:
    """Return a down layer's result in float32, from inputs that were divided by _DOWNSCALE; it must have no bias."""
    result: mx.array = down(hidden).astype(mx.float32) * _DOWNSCALE
    return result


class GroupedLinear(nn.Module):
    """A linear layer in groups: group g of the outputs reads only group g of the inputs.

    Takes x (..., I) and returns (..., O). The weight has the shape (G, I / G, O / G).

    Args:
        inputs: Input width, I.
        outputs: Output width, O.
        groups: Number of groups, G.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((groups, inputs // groups, outputs // groups))
        self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        groups, inputs, _ = self.weight.shape
        # One batched matmul over the groups; the axis of length 1 is its row.
        grouped = x.reshape(*x.shape[:-1], groups, 1, inputs) @ self.weight  # (..., G, 1, O / G)
        return grouped.reshape(*x.shape[:-1], -1) + self.bias


class GroupedFeedForward(nn.Module):
    """A feed-forward block whose linear layers work in groups (ConvBERT).

    Takes x (B, L, D) and returns (B, L, D). Source: Jiang et al., arXiv 2008.02496.

    Args:
        hidden_size: D.
        intermediate_size: Width between the two layers, F.
        activation: Function between the two layers.
        groups: Number of groups, G.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation, groups: int) -> None:
        super().__init__()
        self.up = GroupedLinear(hidden_size, intermediate_size, groups)
        self.down = GroupedLinear(intermediate_size, hidden_size, groups)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        down: mx.array = self.down(self.activation(self.up(x)))
        return down
