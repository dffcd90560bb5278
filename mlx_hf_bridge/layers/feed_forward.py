"""The two-product block after attention, and the activations it may be handed.

B texts, L tokens, D hidden, F intermediate.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.device import ERF_IS_SLOW
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.linear import Linear

Activation = Callable[[mx.array], mx.array]


# An odd polynomial over an even one for |x| <= 4, beyond which erf is 1 in float32: the coefficients of Eigen and XLA
# (ErfImpl32), highest power first. Within 5e-7 of erf.
_ERF_LIMIT = 4.0
_ERF_ABOVE = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BELOW = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _polynomial(x: mx.array, coefficients: tuple[float, ...]) -> mx.array:
    """Horner's rule, highest power first."""
    value = x * coefficients[0] + coefficients[1]
    for coefficient in coefficients[2:]:
        value = value * x + coefficient
    return value


def rational_erf(x: mx.array) -> mx.array:
    """erf by products and sums alone, in float32."""
    clipped = mx.clip(x.astype(mx.float32), -_ERF_LIMIT, _ERF_LIMIT)
    square = clipped * clipped
    return (clipped * _polynomial(square, _ERF_ABOVE) / _polynomial(square, _ERF_BELOW)).astype(x.dtype)


def gelu(x: mx.array) -> mx.array:
    """The exact form, with erf (Hendrycks and Gimpel, arXiv 1606.08415); HF's "gelu"."""
    erf = rational_erf if ERF_IS_SLOW else mx.erf
    return x * (erf(x * math.sqrt(0.5)) + 1) * 0.5


def gelu_tanh(x: mx.array) -> mx.array:
    """The tanh form of the same paper; HF's "gelu_new", "gelu_pytorch_tanh" and, rounded otherwise, "gelu_fast"."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x)."""
    return x * mx.sigmoid(1.702 * x)


# HF's names (transformers/activations.py, ACT2FN).
ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_python": gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": nn.silu,
    "swish": nn.silu,
    "mish": nn.mish,
    "tanh": mx.tanh,
    "sigmoid": mx.sigmoid,
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
