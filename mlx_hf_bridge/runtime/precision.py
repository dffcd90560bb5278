"""Whether MLX computes float32 matmuls in float32: GPUs may use TF32, with 10 bits of mantissa, instead."""

import logging
import os
from functools import cache

import numpy as np

from mlx_hf_bridge.runtime import device  # before mlx.core: it loads a BLAS
from mlx_hf_bridge.runtime.environment import TF32_VARIABLE
from mlx_hf_bridge.runtime.executor import run

# isort: split
import mlx.core as mx

logger = logging.getLogger(__name__)

_SIZE = 256
# The largest relative error of a product of 256 x 256 matrices: float32 stays below 1e-6, TF32 has about 3e-4.
_EXACT = 1e-5


@cache
def float32_error() -> float:
    """Return the error of float32 matmuls on the default device, from a product of two random 256 x 256 matrices.

    Returns:
        The largest difference to the product in float64, relative to the largest value: about 3e-7 in float32, 3e-4 in
        TF32.
    """
    left, right = np.random.default_rng(0).normal(size=(2, _SIZE, _SIZE)).astype(np.float32)
    expected = left.astype(np.float64) @ right.astype(np.float64)
    product = run(lambda: np.array(mx.array(left) @ mx.array(right)))
    return float(np.abs(product - expected).max() / np.abs(expected).max())


def is_exact(error: float) -> bool:
    """Return whether an error of `float32_error` is that of float32.

    Args:
        error: The relative error.

    Returns:
        False for TF32.
    """
    return error < _EXACT


@cache
def warn_of_tf32() -> None:
    """Warn once if float32 matmuls use TF32 on a GPU, unless MLX_ENABLE_TF32=1 asks for it."""
    if device.BACKEND == "cpu" or os.environ.get(TF32_VARIABLE) == "1" or is_exact(float32_error()):
        return
    logger.warning(
        "MLX multiplies float32 matrices in TF32 on %s, so embeddings are off by about 2e-4. It reads %s at its first "
        "matmul: import mlx_hf_bridge before computing with MLX, or set %s=0. Set it to 1 to keep TF32 without this "
        "warning.",
        device.device_name(),
        TF32_VARIABLE,
        TF32_VARIABLE,
    )
