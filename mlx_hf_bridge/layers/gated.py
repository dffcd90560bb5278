"""The feed-forward block with a gate (Shazeer, arXiv 2002.05202): two products in, their product, one out.

B texts, L tokens, D hidden, F intermediate.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.feed_forward import Activation
from mlx_hf_bridge.layers.linear import Linear


class GatedFeedForward(nn.Module):
    """x (B, L, D) -> activation of the gate times the rest (B, L, F) -> down (B, L, D).

    gate_last: the gate's rows are the second half of `gate_up` (GTE); down_bias: None = as `bias`.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
        bias: bool = False,
        down_bias: bool | None = None,
        gate_last: bool = False,
    ) -> None:
        super().__init__()
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias if down_bias is None else down_bias)
        self.activation = activation
        self.gate_last = gate_last

    def __call__(self, x: mx.array) -> mx.array:
        gate, rest = mx.split(self.gate_up(x), 2, axis=-1)  # (B, L, F) each
        if self.gate_last:
            gate, rest = rest, gate
        return self.down(self.activation(gate) * rest)
