"""Layer normalisation (Ba et al., arXiv 1607.06450) and that by the root mean square (Zhang and Sennrich, 1910.07467).

B texts, L tokens, D width.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.runtime.device import SUMS_ARE_SLOW


class LayerNorm(nn.Module):
    """x (..., D) -> (x - mean(x)) / root of its variance and eps * weight + bias, mean and root in float32."""

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        if bias:
            self.bias = mx.zeros((width,))
        self.eps = eps
        # From numpy, so that they are no lazy arrays of the thread that loads.
        self._mean = mx.array(np.full((width, 1), 1 / width, np.float32))
        self._eps = mx.array(np.full((1,), eps, np.float32))

    def __call__(self, x: mx.array) -> mx.array:
        if not SUMS_ARE_SLOW or x.dtype != mx.float32:
            return mx.fast.layer_norm(x, self.weight, self.get("bias"), self.eps)
        rows = x.reshape(-1, x.shape[-1])  # products of matrices take fewer of MLX's operations
        centred = rows - rows @ self._mean
        scaled = centred / mx.sqrt(mx.addmm(self._eps, mx.square(centred), self._mean)) * self.weight
        return (scaled + self.bias if "bias" in self else scaled).reshape(x.shape)


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
