"""Powers by sums and products alone, for CPUs, where MLX takes ten nanoseconds an element for an exponential.

Coefficients: least largest relative error, by iteratively reweighted least squares (benchmarks/activations.py tests
them over their whole range).
"""

import math
from typing import cast

import mlx.core as mx

LOG2_E = 1 / math.log(2)

# 2^f - 1 over f, for |f| <= 1/2, lowest power first: within 1e-7, and exact at 0.
_FRACTION = (
    0.6931470036506653,
    0.24022242426872253,
    0.05550733581185341,
    0.009671512991189957,
    0.001326472731307149,
)
# Added to a number below 2^22, it leaves the nearest whole number in the lowest bits (the mantissa has 23).
_ROUNDING = 1.5 * 2.0**23
_MANTISSA_BITS = 23
# Powers of two between these are normal in float32, with room for products of them.
_LOWEST, _HIGHEST = -100.0, 100.0


def exp2(x: mx.array) -> mx.array:
    """2^x in float32, for x float32 from -100 to 100; outside, the power of the nearer end. Within 3e-7 of it."""
    return cast(mx.array, _power(mx.clip(x, _LOWEST, _HIGHEST)))


def exp2_nonpositive(x: mx.array) -> mx.array:
    """The same for x <= 0, for which one bound is enough."""
    return cast(mx.array, _power(mx.maximum(x, _LOWEST)))


@mx.custom_function
def _power(x: mx.array) -> mx.array:
    """2^k x 2^f with k + f = x: k goes into the exponent's bits, where the shift drops the bits of the constant."""
    shifted = x + _ROUNDING
    fraction = x - (shifted - _ROUNDING)
    value = fraction * _FRACTION[-1] + _FRACTION[-2]
    for coefficient in reversed(_FRACTION[:-2]):
        value = value * fraction + coefficient
    value = value * fraction + 1.0
    exponent = mx.left_shift(shifted.view(mx.int32), _MANTISSA_BITS)
    return (value.view(mx.int32) + exponent).view(mx.float32)


@_power.vjp
def _slope(x: mx.array, cotangent: mx.array, power: mx.array) -> mx.array:
    """The derivative of 2^x, which cannot be seen through the exponent's bits."""
    return cotangent * power * math.log(2)


def sigmoid(x: mx.array) -> mx.array:
    """1 / (1 + e^-x), in float32 whatever x is, answered in its dtype."""
    return mx.reciprocal(1.0 + exp2(x.astype(mx.float32) * -LOG2_E)).astype(x.dtype)


def tanh(x: mx.array) -> mx.array:
    """2 sigmoid(2 x) - 1."""
    return (2.0 * mx.reciprocal(1.0 + exp2(x.astype(mx.float32) * (-2 * LOG2_E))) - 1.0).astype(x.dtype)
