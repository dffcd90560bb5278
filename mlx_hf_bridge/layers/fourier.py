"""A layer that mixes tokens by a Fourier transform in the place of attention (Lee-Thorp et al., arXiv 2105.03824).

B texts, L tokens, D hidden.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.norm import LayerNorm


class FourierLayer(nn.Module):
    """x (B, L, D) -> norm(y + feed_forward(y)) with y = norm(x + transform(x)); it has no weights of attention.

    The transform sees padding: a text's answer depends on the length that it is padded to.
    """

    def __init__(self, feed_forward: nn.Module, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.mixing_norm = LayerNorm(hidden_size, eps=eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        wide = x.astype(mx.float32)  # sums of L x D terms, which float16 cannot hold
        mixed = self.mixing_norm(wide + mx.real(mx.fft.fft2(wide, axes=(1, 2))))
        x = mixed.astype(x.dtype)
        normed: mx.array = self.feed_forward_norm(x + self.feed_forward(x))
        return normed
