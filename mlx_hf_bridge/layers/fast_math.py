"""Fast exponential, sigmoid and tanh for CPUs, built from additions and multiplications.

MLX takes 9 to 20 ns for each element of exp, tanh or erf on a CPU, and 0.1 ns for an addition or multiplication
(benchmarks/activations.py).
"""

import math
from typing import cast

import mlx.core as mx

LOG2_E = 1 / math.log(2)

# Coefficients of (2^f - 1) / f for |f| <= 1/2, lowest power first. Fitted for the least largest relative error of 2^f
# by iteratively reweighted least squares: within 1e-7, about one unit in the last place of float32. The form makes
# 2^0 exactly 1. tests/test_fast_math.py compares the result with numpy over the whole range.
_FRACTION = (
    0.6931470036506653,
    0.24022242426872253,
    0.05550733581185341,
    0.009671512991189957,
    0.001326472731307149,
)
# Added to a number below 2^22, this leaves the nearest integer in the lowest bits: float32 has 23 bits of mantissa, so
# numbers from 2^23 to 2^24 are one apart; the extra half keeps negative numbers in that range too.
_ROUNDING = 1.5 * 2.0**23
_MANTISSA_BITS = 23
# Powers of two between these are normal float32 numbers (down to 2^-126), with room for products of them.
_LOWEST, _HIGHEST = -100.0, 100.0


def exp2(x: mx.array) -> mx.array:
    """Return 2^x, within 3e-7 of the true value (relative).

    Args:
        x: float32 array of any shape. Values outside -100 to 100 are clipped.

    Returns:
        float32 array of the shape of x.
    """
    return cast(mx.array, _exp2(mx.clip(x, _LOWEST, _HIGHEST)))


def exp2_nonpositive(x: mx.array) -> mx.array:
    """Return 2^x for x <= 0, which needs only one bound; softmax subtracts the row's maximum first.

    Args:
        x: float32 array of any shape, none above 0. Values below -100 are clipped.

    Returns:
        float32 array of the shape of x.
    """
    # -inf of a masked score becomes 2^-100, which vanishes next to the row's maximum, 2^0 = 1.
    return cast(mx.array, _exp2(mx.maximum(x, _LOWEST)))


def sigmoid(x: mx.array) -> mx.array:
    """Return 1 / (1 + e^-x).

    Args:
        x: Float array of any shape; the computation is in float32.

    Returns:
        Array of the shape and dtype of x.
    """
    # float32 even for half-precision input, since the bits of float32 are what exp2 computes with.
    return mx.reciprocal(1.0 + exp2(x.astype(mx.float32) * -LOG2_E)).astype(x.dtype)


def tanh(x: mx.array) -> mx.array:
    """Return tanh(x), as 2 sigmoid(2 x) - 1.

    Args:
        x: Float array of any shape; the computation is in float32.

    Returns:
        Array of the shape and dtype of x.
    """
    return (2.0 * mx.reciprocal(1.0 + exp2(x.astype(mx.float32) * (-2 * LOG2_E))) - 1.0).astype(x.dtype)


@mx.custom_function
def _exp2(x: mx.array) -> mx.array:
    """Return 2^k times 2^f, with integer k, |f| <= 1/2 and k + f = x."""
    # These two lines must not be simplified: adding and subtracting the constant is what rounds x to an integer.
    shifted = x + _ROUNDING
    fraction = x - (shifted - _ROUNDING)
    # Horner's scheme from the highest power down: one multiplication and one addition for each coefficient.
    value = fraction * _FRACTION[-1] + _FRACTION[-2]
    for coefficient in reversed(_FRACTION[:-2]):
        value = value * fraction + coefficient
    value = value * fraction + 1.0
    # k is in the lowest bits of `shifted`. The shift moves it to the exponent's bits and drops those of _ROUNDING;
    # adding integers then multiplies the float by 2^k.
    exponent = mx.left_shift(shifted.view(mx.int32), _MANTISSA_BITS)
    return (value.view(mx.int32) + exponent).view(mx.float32)


@_exp2.vjp
def _exp2_vjp(x: mx.array, cotangent: mx.array, power: mx.array) -> mx.array:
    """Return the gradient, which MLX cannot derive through the operations on bits."""
    # d/dx 2^x = 2^x ln 2, from the computed power, so gradients cost one multiplication.
    return cotangent * power * math.log(2)
