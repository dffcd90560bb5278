"""FNet's layer, which mixes tokens by a Fourier transform instead of attention (Lee-Thorp et al., arXiv 2105.03824).

Axes: B texts, L tokens, D hidden size.
"""

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.encoder import OutputRecorder
from mlx_hf_bridge.layers.norm import LayerNorm


class FourierLayer(nn.Module):
    """An FNet layer: norm(y + feed_forward(y)) with y = norm(x + real(fft2(x))).

    Takes x (B, L, D), a mask and a bias that are not used, and the recorder, which gets no attention weights. Returns
    (B, L, D). The transform includes padded positions, so outputs depend on the length that a text is padded to.

    Args:
        feed_forward: Feed-forward block, (B, L, D) -> (B, L, D).
        hidden_size: D.
        eps: Epsilon of both layer norms.
    """

    def __init__(self, feed_forward: nn.Module, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.mixing_norm = LayerNorm(hidden_size, eps=eps)
        self.feed_forward = feed_forward
        self.feed_forward_norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array | None, bias: Any, recorder: OutputRecorder) -> mx.array:
        # float32, because the transform sums L x D terms, which overflows float16.
        wide = x.astype(mx.float32)
        mixed = self.mixing_norm(wide + mx.real(mx.fft.fft2(wide, axes=(1, 2))))
        x = mixed.astype(x.dtype)
        normed: mx.array = self.feed_forward_norm(x + self.feed_forward(x))
        return normed
