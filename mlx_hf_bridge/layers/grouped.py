"""A product in groups: every group of outputs reads a group of inputs alone.

G groups, I inputs, O outputs, B texts, L tokens, D hidden, F intermediate.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.feed_forward import Activation


class GroupedLinear(nn.Module):
    """x (..., I) -> (..., O); weight (G, I / G, O / G)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((groups, inputs // groups, outputs // groups))
        self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        groups, inputs, _ = self.weight.shape
        grouped = x.reshape(*x.shape[:-1], groups, 1, inputs) @ self.weight  # (..., G, 1, O / G)
        return grouped.reshape(*x.shape[:-1], -1) + self.bias


class GroupedFeedForward(nn.Module):
    """x (B, L, D) -> up to (B, L, F), activation, down to (B, L, D), both in groups."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation, groups: int) -> None:
        super().__init__()
        self.up = GroupedLinear(hidden_size, intermediate_size, groups)
        self.down = GroupedLinear(intermediate_size, hidden_size, groups)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        down: mx.array = self.down(self.activation(self.up(x)))
        return down
