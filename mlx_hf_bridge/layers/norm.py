"""Root-mean-square normalisation (Zhang and Sennrich, arXiv 1910.07467): no mean is taken off and nothing is added.

B texts, L tokens, D width.
"""

import mlx.core as mx
import mlx.nn as nn


class RMSNorm(nn.Module):
    """x (..., D) -> x / rms(x) * (weight + offset), the root in float32; `offset` is 1 in Gemma, 0 elsewhere."""

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        self.eps = eps
        self.offset = offset

    def __call__(self, x: mx.array) -> mx.array:
        weight = self.weight + self.offset if self.offset else self.weight
        return mx.fast.rms_norm(x, weight, self.eps)
