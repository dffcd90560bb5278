"""A layer that normalises before and after attention, and before and after feed-forward, as Gemma's do.

B texts, L tokens, D hidden.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import SelfAttention, Trace
from mlx_hf_bridge.layers.pre_norm import finite


class SandwichLayer(nn.Module):
    """x (B, L, D) -> y + norm(feed_forward(norm(y))) with y = x + norm(attention(norm(x))); `norm` makes each norm."""

    def __init__(self, attention: SelfAttention, feed_forward: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm, self.attended_norm = norm(), norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm, self.fed_norm = norm(), norm()

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, trace: Trace) -> mx.array:
        normed = self.attention_norm(x)
        if trace.wants_weights:
            attended, weights = self.attention.with_weights(normed, mask, bias)
            trace.weights.append(weights)
        else:
            attended = self.attention(normed, mask, bias)
        x = finite(x + self.attended_norm(attended))
        return finite(x + self.fed_norm(self.feed_forward(self.feed_forward_norm(x))))
