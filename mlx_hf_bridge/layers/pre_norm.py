"""Layers that normalize before attention and feed-forward instead of after the sum.

Sources: pre-norm layers, Xiong et al., arXiv 2002.04745; norms on both sides, Gemma 2, arXiv 2408.00118.

Axes: B texts, L tokens, D hidden size, H heads.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import OutputRecorder, SelfAttention

# (2 - 2^-10) x 2^15. Residual sums of T5-like models exceed it, and inf would become NaN in the next norm.
_LARGEST_FLOAT16 = 65504.0


class PreNormLayer(nn.Module):
    """A pre-norm layer: y + feed_forward(norm(y)) with y = x + attention(norm(x)).

    Takes x (B, L, D), mask (B, 1, 1 or L, L) or None, the attention's bias, and the recorder. Returns (B, L, D).

    Args:
        attention: The attention module (SelfAttention).
        attention_norm: Norm before attention.
        feed_forward: The feed-forward block, (B, L, D) -> (B, L, D).
        feed_forward_norm: Norm before the feed-forward block.
        position_bias: Maps L to a bias (1, H, L, L) that only this layer adds, instead of the encoder's (umT5).
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
        # Nothing normalizes the residual stream of a pre-norm model, so its sums grow with every layer.
        x = clamp_float16(x + attended)
        return clamp_float16(x + self.feed_forward(self.feed_forward_norm(x)))


class DoubleNormLayer(nn.Module):
    """A Gemma layer: y + norm(feed_forward(norm(y))) with y = x + norm(attention(norm(x))), four different norms.

    Takes x (B, L, D), mask (B, 1, 1 or L, L) or None, the attention's bias, and the recorder. Returns (B, L, D).

    Args:
        attention: The attention module.
        feed_forward: The feed-forward block, (B, L, D) -> (B, L, D).
        norm: Creates one norm; it is called four times.
    """

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


def clamp_float16(x: mx.array) -> mx.array:
    """Clip float16 sums to float16's range, as T5 in transformers does; other dtypes are wide enough.

    Without a norm after the sum, hidden states grow from layer to layer, and float16 would turn them into infinities.

    Args:
        x: Array of any shape and dtype.

    Returns:
        Array of the shape and dtype of x.
    """
    return mx.clip(x, -_LARGEST_FLOAT16, _LARGEST_FLOAT16) if x.dtype == mx.float16 else x
