"""Sines and cosines from additions and multiplications, for GPUs whose own may be inexact.

Metal's fast functions are allowed errors of 2^-13, and larger ones beyond half a turn; the angles of rotary positions
reach thousands of turns. tests/test_inexact_sines.py compares these with float64.
"""

import math

import mlx.core as mx

from mlx_hf_bridge.runtime.device import SINES_ARE_INEXACT, fused

# pi / 2 in four parts, of which the first three have 7 bits each, so that their products with up to 2^17 quarter turns
# are exact in float32 (Cody and Waite, "Software Manual for the Elementary Functions", 1980).
_PARTS = (1.5625, 0.0081787109375, 0.00011730194091796875, 3.1391647326017846e-07)
# The largest angle of 2^17 quarter turns or less; MLX computes larger ones.
_LARGEST = 2e5
# Polynomials for |x| <= pi / 4, from the Cephes library (sinf.c, cosf.c): within 1e-7.
_SINE = (-1.6666654611e-1, 8.3321608736e-3, -1.9515295891e-4)
_COSINE = (4.166664568298827e-2, -1.388731625493765e-3, 2.443315711809948e-5)


def _polynomial(x: mx.array, coefficients: tuple[float, float, float]) -> mx.array:
    first, second, third = coefficients
    return (x * third + second) * x + first


def _quarter(angles: mx.array, turned: int) -> mx.array:
    """Return sin(angles + turned pi / 2), for float32 angles of any shape."""
    quarters = mx.round(angles * (2 / math.pi))
    rest = angles
    for part in _PARTS:
        rest = rest - quarters * part
    square = rest * rest
    sine = rest + rest * square * _polynomial(square, _SINE)
    cosine = 1 - 0.5 * square + square * square * _polynomial(square, _COSINE)
    quarters = quarters + turned
    halves = mx.floor(quarters * 0.5)
    value = mx.where(quarters - 2 * halves == 0, sine, cosine)
    # The sign changes with every half turn.
    signed = value * (1 - 2 * (halves - 2 * mx.floor(halves * 0.5)))
    return mx.where(mx.abs(angles) > _LARGEST, mx.cos(angles) if turned else mx.sin(angles), signed)


@fused
def _sin(angles: mx.array) -> mx.array:
    return _quarter(angles.astype(mx.float32), 0).astype(angles.dtype)


@fused
def _cos(angles: mx.array) -> mx.array:
    return _quarter(angles.astype(mx.float32), 1).astype(angles.dtype)


def sin(angles: mx.array) -> mx.array:
    """Return the sine, within 2e-7 in float32.

    Args:
        angles: Float array of any shape, in radians.

    Returns:
        Array of the shape and dtype of `angles`.
    """
    return _sin(angles) if SINES_ARE_INEXACT else mx.sin(angles)


def cos(angles: mx.array) -> mx.array:
    """Return the cosine, within 2e-7 in float32.

    Args:
        angles: Float array of any shape, in radians.

    Returns:
        Array of the shape and dtype of `angles`.
    """
    return _cos(angles) if SINES_ARE_INEXACT else mx.cos(angles)
