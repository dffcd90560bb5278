"""Activations by their names in transformers, and the feed-forward blocks that follow attention.

Sources: the block of Vaswani et al. (arXiv 1706.03762, section 3.3); gated blocks, Shazeer (arXiv 2002.05202); GELU,
Hendrycks and Gimpel (arXiv 1606.08415).

Axes: B texts, L tokens, D hidden size, F intermediate size, I inputs, O outputs, G groups.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.fast_math import sigmoid, tanh
from mlx_hf_bridge.layers.linear import Linear
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


@fused
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


@fused
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


@fused
def quick_gelu(x: mx.array) -> mx.array:
    """Return x sigmoid(1.702 x), CLIP's approximation of GELU.

    Args:
        x: Float array of any shape.

    Returns:
        Array of the shape and dtype of x.
    """
    return x * _sigmoid(1.702 * x)


@fused
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


@fused
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


# Keys are the names in ACT2FN of transformers/activations.py.
ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
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
            "Add it to ACTIVATIONS in mlx_hf_bridge/layers/feed_forward.py."
        ) from None


class FeedForward(nn.Module):
    """A feed-forward block: linear layer, activation, linear layer.

    Takes x (B, L, D) and returns (B, L, D).

    Args:
        hidden_size: D.
        intermediate_size: Width between the two layers, F.
        activation: Function between the two layers.
        bias: Whether the linear layers have a bias.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.activation(self.up(x)))


class GatedFeedForward(nn.Module):
    """A gated feed-forward block (GLU): down(activation(gate(x)) * up(x)), with gate and up in one linear layer.

    Takes x (B, L, D) and returns (B, L, D). Source: Shazeer, arXiv 2002.05202.

    Args:
        hidden_size: D.
        intermediate_size: Width of the gate, F.
        activation: Activation of the gate.
        bias: Whether the fused gate and up layer has a bias.
        down_bias: Whether the down layer has a bias; None for the value of `bias`.
        gate_last: Whether the gate is the second half of the fused layer (GTE) instead of the first.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation,
        bias: bool = False,
        down_bias: bool | None = None,
        gate_last: bool = False,
    ) -> None:
        super().__init__()
        # One matmul instead of two that read the same input.
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias if down_bias is None else down_bias)
        self.activation = activation
        self.gate_last = gate_last

    def __call__(self, x: mx.array) -> mx.array:
        gate, up = mx.split(self.gate_up(x), 2, axis=-1)  # (B, L, F) each
        # Model types differ in which half of the fused tensor is activated.
        if self.gate_last:
            gate, up = up, gate
        return self.down(self.activation(gate) * up)


class GroupedLinear(nn.Module):
    """A linear layer in groups: group g of the outputs reads only group g of the inputs.

    Takes x (..., I) and returns (..., O). The weight has the shape (G, I / G, O / G).

    Args:
        inputs: Input width, I.
        outputs: Output width, O.
        groups: Number of groups, G.
    """

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((groups, inputs // groups, outputs // groups))
        self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        groups, inputs, _ = self.weight.shape
        # One batched matmul over the groups; the axis of length 1 is its row.
        grouped = x.reshape(*x.shape[:-1], groups, 1, inputs) @ self.weight  # (..., G, 1, O / G)
        return grouped.reshape(*x.shape[:-1], -1) + self.bias


class GroupedFeedForward(nn.Module):
    """A feed-forward block whose linear layers work in groups (ConvBERT).

    Takes x (B, L, D) and returns (B, L, D). Source: Jiang et al., arXiv 2008.02496.

    Args:
        hidden_size: D.
        intermediate_size: Width between the two layers, F.
        activation: Function between the two layers.
        groups: Number of groups, G.
    """

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation, groups: int) -> None:
        super().__init__()
        self.up = GroupedLinear(hidden_size, intermediate_size, groups)
        self.down = GroupedLinear(intermediate_size, hidden_size, groups)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        down: mx.array = self.down(self.activation(self.up(x)))
        return down
