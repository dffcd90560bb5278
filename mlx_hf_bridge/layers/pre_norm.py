"""A layer that normalises before attention and feed-forward, and adds what they give to what it got.

B texts, L tokens, D hidden, H heads.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import OutputRecorder, SelfAttention


class PreNormLayer(nn.Module):
    """x (B, L, D) -> y + feed_forward(norm(y)) with y = x + attention(norm(x)).

    `position_bias` makes a (1, H, L, L) term of the layer's own from L, in place of the stack's (umT5).
    """

    def __init__(
        self,
        attention: nn.Module,
        attention_norm: nn.Module,
        feed_forward: nn.Module,
        feed_forward_norm: nn.Module,
        position_bias: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = attention_norm
        self.feed_forward = feed_forward
        self.feed_forward_norm = feed_forward_norm
        if position_bias is not None:
            self.position_bias = position_bias

    def __call__(self, x: mx.array, mask: mx.array | None, bias: mx.array | None, recorder: OutputRecorder) -> mx.array:
        normed = self.attention_norm(x)
        if "position_bias" in self:
            bias = self.position_bias(x.shape[1])
        if recorder.output_attentions:
            attended, weights = self.attention.with_weights(normed, mask, bias)
            recorder.record_attention(weights)
        else:
            attended = self.attention(normed, mask, bias)
        x = clamp_float16(x + attended)
        return clamp_float16(x + self.feed_forward(self.feed_forward_norm(x)))


def clamp_float16(x: mx.array) -> mx.array:
    """Sums beyond float16's largest number are that number, as transformers' T5 has it; other dtypes hold them."""
    return mx.clip(x, -_LARGEST, _LARGEST) if x.dtype == mx.float16 else x


_LARGEST = 65504.0


class DoubleNormLayer(nn.Module):
    """x (B, L, D) -> y + norm(feed_forward(norm(y))) with y = x + norm(attention(norm(x))); `norm` makes each norm."""

    def __init__(self, attention: SelfAttention, feed_forward: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm, self.post_attention_norm = norm(), norm()
        self.feed_forward = feed_forward
        self.feed_forward_norm, self.post_feed_forward_norm = norm(), norm()

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        normed = self.attention_norm(x)
        if recorder.output_attentions:
            attended, weights = self.attention.with_weights(normed, mask, bias)
            recorder.record_attention(weights)
        else:
            attended = self.attention(normed, mask, bias)
        x = clamp_float16(x + self.post_attention_norm(attended))
        return clamp_float16(x + self.post_feed_forward_norm(self.feed_forward(self.feed_forward_norm(x))))
