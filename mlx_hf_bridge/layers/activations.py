"""Activations by their names in transformers.

Sources: GELU, Hendrycks and Gimpel (arXiv 1606.08415); the others are named where they are defined.
"""

import functools
import math
from collections.abc import Callable

import mlx.core as mx

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.fast_math import sigmoid, tanh
from mlx_hf_bridge.runtime.device import TRANSCENDENTALS_ARE_SLOW, fused

Activation = Callable[[mx.array], mx.array]

# MLX's own sigmoid computes exp, which is slow on CPUs.
_sigmoid: Activation = sigmoid if TRANSCENDENTALS_ARE_SLOW else mx.sigmoid

# Coefficients of (1 - Phi(x))^(1/32) for 0 <= x <= 5.6, lowest power first; Phi is the normal distribution function.
# 1 - Phi falls by eight orders of magnitude on that interval, while its 32nd root is nearly a straight line, so that
# six coefficients are enough: x (1 - Phi(x)) is within 1.2e-7 of the true value, and within 4.5e-7 when computed in
# float32. tests/test_fast_math.py compares the result with torch over the whole range.
_TAIL_ROOT = (
    0.9785721898078918,
    -0.02440195344388485,
    -0.009417979046702385,
    -0.0008972007199190557,
    0.00024974666303023696,
    -1.3068583939457312e-05,
)
# Squaring five times raises to the 32nd power.
_TAIL_SQUARINGS = 5
# From here on x (1 - Phi(x)) is below 6e-8 and counts as that constant.
_TAIL_END = 5.6


def cpu_gelu(x: mx.array) -> mx.array:
    """Return the exact GELU, computed from additions and multiplications, for CPUs where MLX's `erf` is slow.

    GELU(x) = x Phi(x) = relu(x) - |x| (1 - Phi(|x|)); the last term is symmetric in x and fitted by a polynomial.

    Args:
        x: Float array of any shape; the computation is in float32.

    Returns:
        Array of the shape and dtype of x.
    """
    # float32, because a 32nd power multiplies a relative rounding error by 32.
    wide = x.astype(mx.float32)
    size = mx.minimum(mx.abs(wide), _TAIL_END)
    tail = size * _TAIL_ROOT[-1] + _TAIL_ROOT[-2]
    for coefficient in reversed(_TAIL_ROOT[:-2]):
        tail = tail * size + coefficient
    for _ in range(_TAIL_SQUARINGS):
        # mx.square reads its array once, tail * tail would read it twice: gelu takes 0.84 of the processor time.
        tail = mx.square(tail)
    # GELU is relu(x) - |x| (1 - Phi(|x|)), which holds on both sides of 0; so the tail is fitted for positive x only.
    return (mx.maximum(wide, 0) - size * tail).astype(x.dtype)


def _rounded_once(function: Activation) -> Activation:
    """Compute an elementwise function in float32 and round the result to the dtype of x, as torch does.

    On GPUs this is one kernel, which memory limits, so that half precision is as fast as without it.
    """

    @functools.wraps(function)
    def wide(x: mx.array) -> mx.array:
        return function(x.astype(mx.float32)).astype(x.dtype)

    return fused(wide)


@_rounded_once
def _gelu(x: mx.array) -> mx.array:
    # x Phi(x), since Phi(x) = (1 + erf(x / sqrt(2))) / 2.
    return x * (mx.erf(x * math.sqrt(0.5)) + 1) * 0.5


def gelu(x: mx.array) -> mx.array:
    """Return the exact GELU, x Phi(x); "gelu" in transformers.

    Source: Hendrycks and Gimpel, arXiv 1606.08415.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return cpu_gelu(x) if TRANSCENDENTALS_ARE_SLOW else _gelu(x)


@_rounded_once
def gelu_tanh(x: mx.array) -> mx.array:
    """Return the tanh approximation of GELU; "gelu_new" and "gelu_pytorch_tanh" in transformers.

    "gelu_fast" is the same function and differs only in rounding. The tanh is written as a sigmoid:
    (1 + tanh(y)) / 2 = sigmoid(2 y).

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    # 0.044715: Hendrycks and Gimpel, arXiv 1606.08415, section 2.
    # 0.5 (1 + tanh(y)) = sigmoid(2 y): one exponential instead of tanh.
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


@_rounded_once
def quick_gelu(x: mx.array) -> mx.array:
    """Return x sigmoid(1.702 x), CLIP's approximation of GELU.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return x * _sigmoid(1.702 * x)


@_rounded_once
def silu(x: mx.array) -> mx.array:
    """Return x sigmoid(x), also known as swish.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return x * _sigmoid(x)


@fused
def relu(x: mx.array) -> mx.array:
    """Return max(x, 0).

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return mx.maximum(x, 0)


@fused
def relu6(x: mx.array) -> mx.array:
    """Return x clipped to 0 to 6.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return mx.clip(x, 0, 6)


@_rounded_once
def mish(x: mx.array) -> mx.array:
    """Return x tanh(log(1 + e^x)).

    Source: Misra, arXiv 1908.08681.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    # logaddexp(x, 0) = log(1 + e^x) without overflow for large x.
    return x * mx.tanh(mx.logaddexp(x, 0))


@_rounded_once
def hardswish(x: mx.array) -> mx.array:
    """Return x relu6(x + 3) / 6.

    Source: Howard et al., arXiv 1905.02244.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return x * mx.clip(x + 3, 0, 6) / 6


@_rounded_once
def laplace(x: mx.array) -> mx.array:
    """Return the normal distribution's (1 + erf((x - mu) / (sigma sqrt(2)))) / 2, MEGA's activation.

    Source: Ma et al., arXiv 2209.10655; mu and sigma are those of LaplaceActivation in transformers.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return (1 + mx.erf((x - 0.707107) / (0.282095 * math.sqrt(2)))) * 0.5


@fused
def relu2(x: mx.array) -> mx.array:
    """Return max(x, 0)^2.

    Source: So et al., arXiv 2109.08668.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return mx.square(mx.maximum(x, 0))


@_rounded_once
def sqrt_softplus(x: mx.array) -> mx.array:
    """Return sqrt(log(1 + e^x)).

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return mx.sqrt(mx.logaddexp(x, 0))


# Keys are the names in ACT2FN of transformers/activations.py; those that are missing have weights of their own.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_10": lambda x: mx.clip(gelu(x), -10, 10),
    "gelu_accurate": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "hardswish": hardswish,
    "laplace": laplace,
    "leaky_relu": lambda x: mx.maximum(x, 0.01 * x),
    "relu2": relu2,
    "sqrtsoftplus": sqrt_softplus,
    "gelu_python": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "relu6": relu6,
    "silu": silu,
    "swish": silu,
    "mish": mish,
    "tanh": tanh if TRANSCENDENTALS_ARE_SLOW else mx.tanh,
    "sigmoid": _sigmoid,
    "linear": lambda x: x,
}


def activation_for(name: str) -> Activation:
    """Return the activation function of a name that config.json uses.

    Args:
        name: Name in transformers' ACT2FN, such as "gelu".

    Returns:
        A function from an array to an array of the same shape and dtype.

    Raises:
        ConfigError: If the name is not known here.
    """
    try:
        return ACTIVATIONS[name]
    # TypeError: config.json may hold a list or a dict here, which no dictionary can look up.
    except (KeyError, TypeError):
        raise ConfigError(
            f"config.json has hidden_act={name!r}; known are {', '.join(sorted(ACTIVATIONS))}. "
            "Take the file of the original checkpoint, or use transformers on torch for this model."
        ) from None
