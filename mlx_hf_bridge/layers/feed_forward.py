"""The two-product block after attention, and the activations it may be handed.

B texts, L tokens, D hidden, F intermediate.
"""

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.linear import Linear

Activation = Callable[[mx.array], mx.array]


def gelu(x: mx.array) -> mx.array:
    """The exact form, with erf (Hendrycks and Gimpel, arXiv 1606.08415); HF's "gelu"."""
    return x * (mx.erf(x * math.sqrt(0.5)) + 1) * 0.5


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

    def __init__(self, hidden_size: int, intermediate_size: int, activation: Activation) -> None:
        super().__init__()
        self.up = Linear(hidden_size, intermediate_size)
        self.down = Linear(intermediate_size, hidden_size)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        return self.down(self.activation(self.up(x)))
