"""The two-product block after attention, and the activations it may be handed.

B texts, L tokens, D hidden, F intermediate.
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

_sigmoid: Activation = sigmoid if TRANSCENDENTALS_ARE_SLOW else mx.sigmoid

# (1 - Phi(x))^(1/32) for 0 <= x <= 5.6, Phi the normal distribution's, lowest power first. A root is nearly straight,
# so that few powers serve: x (1 - Phi(x)) is within 1.2e-7, in float32 arithmetic within 4.5e-7.
_TAIL_ROOT = (
    0.9785721898078918,
    -0.02440195344388485,
    -0.009417979046702385,
    -0.0008972007199190557,
    0.00024974666303023696,
    -1.3068583939457312e-05,
)
_TAIL_SQUARINGS = 5
_TAIL_END = 5.6


def cpu_gelu(x: mx.array) -> mx.array:
    """x Phi(x) by sums and products alone, in float32: relu(x) less what is symmetric, |x| (1 - Phi(|x|))."""
    wide = x.astype(mx.float32)
    size = mx.minimum(mx.abs(wide), _TAIL_END)
    tail = size * _TAIL_ROOT[-1] + _TAIL_ROOT[-2]
    for coefficient in reversed(_TAIL_ROOT[:-2]):
        tail = tail * size + coefficient
    for _ in range(_TAIL_SQUARINGS):
        tail = mx.square(tail)  # reads the array once
    return (mx.maximum(wide, 0) - size * tail).astype(x.dtype)


@fused
def _gelu(x: mx.array) -> mx.array:
    return x * (mx.erf(x * math.sqrt(0.5)) + 1) * 0.5


def gelu(x: mx.array) -> mx.array:
    """The exact form, with erf (Hendrycks and Gimpel, arXiv 1606.08415); HF's "gelu"."""
    return cpu_gelu(x) if TRANSCENDENTALS_ARE_SLOW else _gelu(x)


@fused
def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh form of the same paper; HF's "gelu_new", "gelu_pytorch_tanh" and, rounded otherwise, "gelu_fast"."""
    return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))


@fused
def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x)."""
    return x * _sigmoid(1.702 * x)


@fused
def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x)."""
    return x * _sigmoid(x)


@fused
def relu(x: mx.array) -> mx.array:
    """x, or 0 where x is below."""
    return mx.maximum(x, 0)


@fused
def relu6(x: mx.array) -> mx.array:
    """relu, at most 6."""
    return mx.clip(x, 0, 6)


@fused
def mish(x: mx.array) -> mx.array:
    """x tanh(log(1 + e^x))."""
    return x * mx.tanh(mx.logaddexp(x, 0))


# HF's names (transformers/activations.py, ACT2FN).
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
    """The function of HF's name; ConfigError for one that is not known here."""
    try:
        return ACTIVATIONS[name]
    except (KeyError, TypeError):
        raise ConfigError(
            f"config.json has hidden_act={name!r}; known are {', '.join(sorted(ACTIVATIONS))}. "
            "Add it to ACTIVATIONS in mlx_hf_bridge/layers/feed_forward.py."
        ) from None


class FeedForward(nn.Module):
    """x (B, L, D) -> up to (B, L, F), activation, down to (B, L, D)."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.activation(self.up(x)))


class GatedFeedForward(nn.Module):
    """x (B, L, D) -> activation of the gate times the rest (B, L, F) -> down (B, L, D).

    gate_last: the gate's rows are the second half of `gate_up` (GTE); down_bias: None = as `bias`.
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
        self.gate_up = Linear(hidden_size, 2 * intermediate_size, bias)
        self.down = Linear(intermediate_size, hidden_size, bias if down_bias is None else down_bias)
        self.activation = activation
        self.gate_last = gate_last

    def __call__(self, x: mx.array) -> mx.array:
        gate, rest = mx.split(self.gate_up(x), 2, axis=-1)  # (B, L, F) each
        if self.gate_last:
            gate, rest = rest, gate
        return self.down(self.activation(gate) * rest)


class GroupedLinear(nn.Module):
    """x (..., I) -> (..., O); weight (G, I / G, O / G)."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((groups, inputs // groups, outputs // groups))
        self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        groups, inputs, _ = self.weight.shape
        grouped = x.reshape(*x.shape[:-1], groups, 1, inputs) @ self.weight  # (..., G, 1, O / G)
        return grouped.reshape(*x.shape[:-1], -1) + self.bias


class GroupedFeedForward(nn.Module):
    """x (B, L, D) -> up to (B, L, F), activation, down to (B, L, D), both in groups."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation, groups: int) -> None:
        super().__init__()
        self.up = GroupedLinear(hidden_size, intermediate_size, groups)
        self.down = GroupedLinear(intermediate_size, hidden_size, groups)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        down: mx.array = self.down(self.activation(self.up(x)))
        return down
