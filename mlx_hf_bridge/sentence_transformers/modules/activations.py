"""torch's activation classes by their dotted names, computed by MLX; no code of a repo is ever run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.feed_forward import gelu

Activation = Callable[[mx.array], mx.array]

# By class name; each with the module that sentence-transformers writes before it.
ACTIVATIONS: dict[str, tuple[str, Activation]] = {
    "Identity": ("torch.nn.modules.linear", lambda x: x),
    "Tanh": ("torch.nn.modules.activation", mx.tanh),
    "ReLU": ("torch.nn.modules.activation", nn.relu),
    "GELU": ("torch.nn.modules.activation", gelu),
    "SiLU": ("torch.nn.modules.activation", nn.silu),
    "Sigmoid": ("torch.nn.modules.activation", mx.sigmoid),
    "LogSigmoid": ("torch.nn.modules.activation", nn.log_sigmoid),
    "Mish": ("torch.nn.modules.activation", nn.mish),
    "Softsign": ("torch.nn.modules.activation", nn.softsign),
    "ReLU6": ("torch.nn.modules.activation", nn.relu6),
    "ELU": ("torch.nn.modules.activation", nn.elu),
    "LeakyReLU": ("torch.nn.modules.activation", nn.leaky_relu),
}


def torch_name(name: str) -> str:
    """ "Tanh" -> "torch.nn.modules.activation.Tanh"."""
    return f"{ACTIVATIONS[name][0]}.{name}"


def parse_activation(reference: Any, where: str) -> str:
    """ "torch.nn.modules.activation.Tanh" -> "Tanh"; UnsupportedModelError for what is not in the table."""
    module, _, last = str(reference).rpartition(".")
    if not module.startswith("torch.") or last not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{where} has the activation {reference!r}; known are torch's {', '.join(ACTIVATIONS)}. "
            "Use sentence-transformers on torch for this model."
        )
    return last


@dataclass(frozen=True)
class NamedActivation:
    """One of ACTIVATIONS, called on an MLX array."""

    name: str

    def __call__(self, x: mx.array) -> mx.array:
        return ACTIVATIONS[self.name][1](x)

    @property
    def reference(self) -> str:
        """torch's dotted name of it."""
        return torch_name(self.name)
