"""torch's activation classes by their dotted names, computed by MLX; no code of a checkpoint is ever run."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.activations import gelu

Activation = Callable[[mx.array], mx.array]

# By torch's class name, with the Python module that precedes it in config.json.
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
    """Return torch's dotted class name of an activation: "Tanh" -> "torch.nn.modules.activation.Tanh".

    Args:
        name: A key of `ACTIVATIONS`, which is torch's class name.

    Returns:
        The name as sentence-transformers writes it into config.json.
    """
    return f"{ACTIVATIONS[name][0]}.{name}"


def parse_activation(reference: Any, where: str) -> str:
    """Return the class name of a dotted torch activation: "torch.nn.modules.activation.Tanh" -> "Tanh".

    Args:
        reference: The value of `activation_function` in a config.json.
        where: What holds the value, named in the error; usually the path of the config.json.

    Returns:
        A key of `ACTIVATIONS`.

    Raises:
        UnsupportedModelError: If the name is not one of torch's, or its class is not in `ACTIVATIONS`.
    """
    module, _, last = str(reference).rpartition(".")
    # Compared with a table and never imported: the name comes from a stranger's repo.
    if not module.startswith("torch.") or last not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{where} has the activation {reference!r}; known are torch's {', '.join(ACTIVATIONS)}. "
            "Use sentence-transformers on torch for this model."
        )
    return last


@dataclass(frozen=True)
class NamedActivation:
    """One of `ACTIVATIONS` as a callable: an MLX array of any shape goes in, and one of the same shape comes out.

    Args:
        name: A key of `ACTIVATIONS`, for example "Sigmoid".
    """

    name: str

    def __call__(self, x: mx.array) -> mx.array:
        return ACTIVATIONS[self.name][1](x)

    @property
    def reference(self) -> str:
        """torch's dotted class name, as sentence-transformers writes it."""
        return torch_name(self.name)
