"""torch's activation classes by their dotted names, computed by MLX; no code of a checkpoint is ever run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.activations import gelu, hardswish

Activation = Callable[[mx.array], mx.array]

_ACTIVATION, _LINEAR, _DROPOUT = (f"torch.nn.modules.{name}" for name in ("activation", "linear", "dropout"))
# The mean of the slopes that torch's RReLU draws in training, which it has afterwards.
_RRELU_SLOPE = (1 / 8 + 1 / 3) / 2


def _same(x: mx.array) -> mx.array:
    return x


def _softmax(x: mx.array) -> mx.array:
    # torch.nn.Softmax without dim: the last axis of (texts, width), and the texts of (texts, tokens, width).
    if x.ndim != 2:
        raise UnsupportedModelError(
            f"a Softmax without dim is applied to {x.ndim} axes, where torch takes it over the texts of a batch. "
            "Use sentence-transformers on torch for this model."
        )
    return mx.softmax(x, axis=-1)


def _shrink(x: mx.array, hard: bool) -> mx.array:
    return mx.where(mx.abs(x) > 0.5, x if hard else x - 0.5 * mx.sign(x), 0)


def _softplus(x: mx.array) -> mx.array:
    # torch's threshold, beyond which it returns x itself.
    return mx.where(x > 20, x, mx.logaddexp(x, 0))


# By torch's class name, with the Python module that precedes it in config.json: every class of torch.nn that can be
# built without arguments, which is how sentence-transformers builds them, with torch's default parameters.
ACTIVATIONS: dict[str, tuple[str, Activation]] = {
    "Identity": (_LINEAR, _same),
    "Tanh": (_ACTIVATION, mx.tanh),
    "ReLU": (_ACTIVATION, nn.relu),
    "GELU": (_ACTIVATION, gelu),
    "SiLU": (_ACTIVATION, nn.silu),
    "Sigmoid": (_ACTIVATION, mx.sigmoid),
    "LogSigmoid": (_ACTIVATION, nn.log_sigmoid),
    "Mish": (_ACTIVATION, nn.mish),
    "Softsign": (_ACTIVATION, nn.softsign),
    "ReLU6": (_ACTIVATION, nn.relu6),
    "ELU": (_ACTIVATION, nn.elu),
    "CELU": (_ACTIVATION, nn.elu),
    "SELU": (_ACTIVATION, nn.selu),
    "LeakyReLU": (_ACTIVATION, nn.leaky_relu),
    "PReLU": (_ACTIVATION, lambda x: mx.where(x > 0, x, 0.25 * x)),
    "Hardtanh": (_ACTIVATION, lambda x: mx.clip(x, -1, 1)),
    "Hardsigmoid": (_ACTIVATION, lambda x: mx.clip(x + 3, 0, 6) / 6),
    "Hardswish": (_ACTIVATION, hardswish),
    "Hardshrink": (_ACTIVATION, lambda x: _shrink(x, hard=True)),
    "Softshrink": (_ACTIVATION, lambda x: _shrink(x, hard=False)),
    "Tanhshrink": (_ACTIVATION, lambda x: x - mx.tanh(x)),
    "Softplus": (_ACTIVATION, _softplus),
    "Softmax": (_ACTIVATION, _softmax),
    "Softmin": (_ACTIVATION, lambda x: _softmax(-x)),
    "LogSoftmax": (_ACTIVATION, lambda x: mx.log(_softmax(x))),
    "GLU": (_ACTIVATION, nn.glu),
}
# Without an effect, or with a fixed one, after training; the activation of a CrossEncoder stays in training mode.
_AFTER_TRAINING: dict[str, tuple[str, Activation]] = {
    "RReLU": (_ACTIVATION, lambda x: mx.where(x > 0, x, _RRELU_SLOPE * x)),
    **dict.fromkeys(("Dropout", "AlphaDropout", "FeatureAlphaDropout"), (_DROPOUT, _same)),
}
DENSE_ACTIVATIONS = {**ACTIVATIONS, **_AFTER_TRAINING}


def torch_name(name: str) -> str:
    """Return torch's dotted class name of an activation: "Tanh" -> "torch.nn.modules.activation.Tanh".

    Args:
        name: A key of `DENSE_ACTIVATIONS`, which is torch's class name.

    Returns:
        The name as sentence-transformers writes it into config.json.
    """
    return f"{DENSE_ACTIVATIONS[name][0]}.{name}"


def parse_activation(reference: Any, where: str, known: Mapping[str, Any] = ACTIVATIONS) -> str:
    """Return the class name of a dotted torch activation: "torch.nn.modules.activation.Tanh" -> "Tanh".

    Args:
        reference: The value of `activation_function` in a config.json.
        where: What holds the value, named in the error; usually the path of the config.json.
        known: The activations by class name. Default: `ACTIVATIONS`.

    Returns:
        A key of `known`.

    Raises:
        UnsupportedModelError: If the name is not one of torch's, or its class is not known.
    """
    module, _, last = str(reference).rpartition(".")
    # Compared with a table and never imported: the name comes from a stranger's repo.
    if not module.startswith("torch.") or last not in known:
        raise UnsupportedModelError(
            f"{where} has the activation {reference!r}; known are torch's {', '.join(known)}. "
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
