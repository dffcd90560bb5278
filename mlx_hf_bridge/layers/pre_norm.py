"""Layers that normalize before attention and feed-forward instead of after the sum.

Sources: pre-norm layers, Xiong et al., arXiv 2002.04745; norms on both sides, Gemma 2, arXiv 2408.00118.

Nothing normalizes the sums of a pre-norm model, so they grow from layer to layer: in T5 and Gemma beyond float16.
In a float16 model they are float32; the blocks between them compute in float16.

Axes: B texts, L tokens, D hidden size, H heads.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import OutputRecorder, SelfAttention
from mlx_hf_bridge.layers.padding import sum_finite_at_padding


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
        dtype = self.feed_forward_norm.weight.dtype
        x = residual(x, dtype)
        normed = self.attention_norm(x).astype(dtype)
        if "position_bias" in self:
            bias = self.position_bias(x.shape[1])
        if recorder.output_attentions:
            attended, weights = self.attention.with_weights(normed, mask, bias)
            recorder.record_attention(weights)
        else:
            attended = self.attention(normed, mask, bias)
        x = x + attended
        return sum_finite_at_padding(x, self.feed_forward(self.feed_forward_norm(x).astype(dtype)), mask, dtype)


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
        dtype = self.feed_forward_norm.weight.dtype
        x = residual(x, dtype)
        normed = self.attention_norm(x).astype(dtype)
        if recorder.output_attentions:
            attended, weights = self.attention.with_weights(normed, mask, bias)
            recorder.record_attention(weights)
        else:
            attended = self.attention(normed, mask, bias)
        # The norms after a block have large weights in Gemma, so their results are as wide as the sums.
        x = x + self.post_attention_norm(attended.astype(x.dtype))
        fed = self.feed_forward(self.feed_forward_norm(x).astype(dtype))
        return sum_finite_at_padding(x, self.post_feed_forward_norm(fed.astype(x.dtype)), mask, dtype)


def residual(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Return the sums of a pre-norm layer in a dtype that holds them.

    Args:
        x: Sums so far, of any shape.
        dtype: The dtype of the model's weights.

    Returns:
        x as float32 in a float16 model; x itself for other dtypes, which have the range that sums need.
    """
    return x.astype(mx.float32) if dtype == mx.float16 else x
