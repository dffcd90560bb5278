"""Tolerances by the dtype that is computed in: float32 on CPUs, and on GPUs the dtype of the stored weights."""

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.runtime.device import activation_dtype

# Relative to the largest output value, at least 1 because terms may cancel: rounding to 11 and 8 significant bits
# through three layers and a head. Largest differences seen: 0.0031 and 0.034.
SHARE = {mx.float16: 0.006, mx.bfloat16: 0.06}


def tolerance(in_float32: float, expected: np.ndarray | float = 1.0, stored: mx.Dtype = mx.float16) -> float:
    """Return the largest allowed difference of models whose weights are stored in a dtype.

    `in_float32` is that of float32 activations; quantized models store float16.
    """
    dtype = activation_dtype(stored)
    return in_float32 if dtype == mx.float32 else SHARE[dtype] * max(1.0, float(np.abs(expected).max()))
