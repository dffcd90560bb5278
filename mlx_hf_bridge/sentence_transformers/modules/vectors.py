"""Dense, Normalize, LayerNorm and Dropout: what is done to vectors after pooling, or to tokens before scoring.

Reference: sentence_transformers/base/modules/{dense,normalize}.py, sentence_transformer/modules/layer_norm.py.
V vector width, W that of the result.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.inference.pooling import normalized
from mlx_hf_bridge.sentence_transformers.modules.activations import ACTIVATIONS, parse_activation, torch_name
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    get_tensor,
    read_module_config,
    read_module_weights,
)

# torch.nn.LayerNorm's default, which the reference does not change.
_NORM_EPS = 1e-5


class Dense(Module):
    """(..., V) -> activation of a product (..., W), with the input added where the config says so."""

    reference: ClassVar[str] = "sentence_transformers.base.modules.dense.Dense"

    def __init__(
        self,
        weight: mx.array,
        bias: mx.array | None = None,
        activation: str = "Tanh",
        residual: mx.array | None = None,
        use_residual: bool = False,
        module_input_name: str = SENTENCE_EMBEDDING,
        module_output_name: str | None = None,
    ) -> None:
        self.weight, self.bias, self.residual = weight, bias, residual
        self.activation, self.use_residual = activation, use_residual
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    @classmethod
    def read(cls, folder: Path, input_name: str = SENTENCE_EMBEDDING) -> Self:
        """config.json and the weights; `input_name` is what is read where the config does not say."""
        config = read_module_config(folder)
        arrays = read_module_weights(folder)
        width = check_integer(config, "in_features", folder)
        shape = (check_integer(config, "out_features", folder), width)
        use_residual = bool(config.get("use_residual"))
        projects = use_residual and shape[0] != shape[1]
        return cls(
            weight=get_tensor(arrays, "linear.weight", shape, folder),
            bias=get_tensor(arrays, "linear.bias", shape[:1], folder) if config.get("bias", True) else None,
            activation=parse_activation(
                config.get("activation_function", torch_name("Tanh")), str(folder / "config.json")
            ),
            residual=get_tensor(arrays, "residual.weight", shape, folder) if projects else None,
            use_residual=use_residual,
            module_input_name=config.get("module_input_name", input_name),
            module_output_name=config.get("module_output_name"),
        )

    def __call__(self, features: Features) -> Features:
        given = features[self.module_input_name].astype(mx.float32)
        product = given @ self.weight.T
        answer = ACTIVATIONS[self.activation][1](product if self.bias is None else product + self.bias)
        if self.use_residual:
            answer = answer + (given if self.residual is None else given @ self.residual.T)
        return features.with_array(self.module_output_name, answer)

    @property
    def out_features(self) -> int:
        """W."""
        return self.weight.shape[0]

    def get_embedding_dimension(self) -> int | None:
        return self.out_features

    def get_config_dict(self) -> dict[str, Any]:
        config = {
            "in_features": self.weight.shape[1],
            "out_features": self.out_features,
            "bias": self.bias is not None,
            "activation_function": torch_name(self.activation),
            "module_input_name": self.module_input_name,
            "module_output_name": self.module_output_name,
        }
        return {**config, "use_residual": True} if self.use_residual else config

    def arrays(self) -> dict[str, mx.array]:
        named = {"linear.weight": self.weight, "linear.bias": self.bias, "residual.weight": self.residual}
        return {name: array for name, array in named.items() if array is not None}


class Normalize(Module):
    """(..., V) -> unit length each, in float32; nothing where the vectors are not there."""

    reference: ClassVar[str] = "sentence_transformers.base.modules.normalize.Normalize"

    def __init__(self, module_input_name: str = SENTENCE_EMBEDDING, module_output_name: str | None = None) -> None:
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    @classmethod
    def read(cls, folder: Path) -> Self:
        """config.json where there is one."""
        config = read_module_config(folder, optional=True)
        return cls(config.get("module_input_name", SENTENCE_EMBEDDING), config.get("module_output_name"))

    def __call__(self, features: Features) -> Features:
        if self.module_input_name not in features.arrays:
            return features
        return features.with_array(self.module_output_name, normalized(features[self.module_input_name]))

    def get_config_dict(self) -> dict[str, Any]:
        return {"module_input_name": self.module_input_name, "module_output_name": self.module_output_name}


class LayerNorm(Module):
    """sentence_embedding (B, V) -> mean 0 and variance 1, times a weight, plus a bias."""

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm"

    def __init__(self, weight: mx.array, bias: mx.array) -> None:
        self.weight, self.bias = weight, bias

    @classmethod
    def read(cls, folder: Path) -> Self:
        shape = (check_integer(read_module_config(folder), "dimension", folder),)
        arrays = read_module_weights(folder)
        return cls(get_tensor(arrays, "norm.weight", shape, folder), get_tensor(arrays, "norm.bias", shape, folder))

    def __call__(self, features: Features) -> Features:
        vectors = features[SENTENCE_EMBEDDING].astype(mx.float32)
        return features.with_array(SENTENCE_EMBEDDING, mx.fast.layer_norm(vectors, self.weight, self.bias, _NORM_EPS))

    def get_embedding_dimension(self) -> int | None:
        return self.weight.shape[0]

    def get_config_dict(self) -> dict[str, Any]:
        return {"dimension": self.weight.shape[0]}

    def arrays(self) -> dict[str, mx.array]:
        return {"norm.weight": self.weight, "norm.bias": self.bias}


class Dropout(Module):
    """Nothing, outside of training."""

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"

    def __init__(self, dropout: float = 0.2) -> None:
        self.dropout = dropout

    @classmethod
    def read(cls, folder: Path) -> Self:
        return cls(read_module_config(folder, optional=True).get("dropout", 0.2))

    def __call__(self, features: Features) -> Features:
        return features

    def get_config_dict(self) -> dict[str, Any]:
        return {"dropout": self.dropout}
