"""Layer norm (Ba et al., arXiv 1607.06450) and RMS norm (Zhang and Sennrich, arXiv 1910.07467).

Axes: B texts, L tokens, D width of the last axis.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.runtime.device import SUMS_ARE_SLOW


class LayerNorm(nn.Module):
    """Layer norm: (x - mean) / sqrt(variance + eps) * weight + bias, with mean and variance in float32.

    Takes x (..., D) and returns (..., D).

    Args:
        width: D.
        eps: Added to the variance.
        bias: Whether there is a bias.
    """

    def __init__(self, width: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        if bias:
            self.bias = mx.zeros((width,))
        self.eps = eps
        # Made from numpy arrays, which are evaluated: a lazy array belongs to the thread that created it.
        self._mean = mx.array(np.full((width, 1), 1 / width, np.float32))
        self._eps = mx.array(np.full((1,), eps, np.float32))

    def __call__(self, x: mx.array) -> mx.array:
        if not SUMS_ARE_SLOW or x.dtype != mx.float32:
            return mx.fast.layer_norm(x, self.weight, self.get("bias"), self.eps)
        # Mean and variance as matmuls with a column of 1 / D, which BLAS computes faster than MLX computes sums of
        # rows on a CPU. The mean is subtracted before squaring: E[x^2] - E[x]^2 would cancel far from zero.
        rows = x.reshape(-1, x.shape[-1])
        centered = rows - rows @ self._mean
        scaled = centered / mx.sqrt(mx.addmm(self._eps, mx.square(centered), self._mean)) * self.weight
        return (scaled + self.bias if "bias" in self else scaled).reshape(x.shape)


class RMSNorm(nn.Module):
    """RMS norm: x / rms(x) * (weight + offset), with the root mean square in float32.

    Takes x (..., D) and returns (..., D).

    Args:
        width: D.
        eps: Added to the mean square.
        offset: Added to the weight: 1 in Gemma, whose weights are stored around 0, otherwise 0.
    """

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = mx.ones((width,))
        self.eps = eps
        self.offset = offset

    def __call__(self, x: mx.array) -> mx.array:
        # Gemma stores the weight minus 1; adding it here keeps the stored tensors those of the checkpoint.
        weight = self.weight.astype(x.dtype) + self.offset if self.offset else self.weight
        return mx.fast.rms_norm(x, weight, self.eps)
