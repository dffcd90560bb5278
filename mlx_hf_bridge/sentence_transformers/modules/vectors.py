"""Dense, Normalize, LayerNorm and Dropout: applied to embeddings after pooling, or to tokens before scoring.

Reference: sentence_transformers/base/modules/{dense,normalize}.py, sentence_transformer/modules/layer_norm.py.
Shapes: B texts, V embedding width, W width of the result.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.inference.pooling import normalize
from mlx_hf_bridge.sentence_transformers.modules.activations import DENSE_ACTIVATIONS, parse_activation, torch_name
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    check_names,
    get_feature_name,
    get_tensor,
    read_module_config,
    read_module_weights,
)

# The weight of torch.nn.PReLU, the only activation that has one.
_SLOPE = "activation_function.weight"
# torch.nn.LayerNorm's default, which the reference does not change.
_NORM_EPS = 1e-5


class Dense(Module):
    """Apply a linear layer and an activation: `module_input_name` (..., V) -> `module_output_name` (..., W), float32.

    Args:
        weight: (W, V), float32.
        bias: (W,), or None for no bias.
        activation: A key of `DENSE_ACTIVATIONS`, torch's class name.
        residual: (W, V), which projects the input for the residual connection; None if V equals W.
        use_residual: Whether the input is added to the result.
        module_input_name: The array of the features that is read.
        module_output_name: The array that is set; None for the one that is read.
        slope: The weight (1,) of the activation "PReLU"; None for torch's initial one.
    """

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
        slope: mx.array | None = None,
    ) -> None:
        self.weight, self.bias, self.residual, self.slope = weight, bias, residual, slope
        self.activation, self.use_residual = activation, use_residual
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    @classmethod
    def read(cls, folder: Path, input_name: str = SENTENCE_EMBEDDING) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with config.json and model.safetensors or pytorch_model.bin.
            input_name: The array that is read where the config names none.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        arrays = read_module_weights(folder)
        width = check_integer(config, "in_features", folder)
        shape = (check_integer(config, "out_features", folder), width)
        use_residual = bool(config.get("use_residual"))
        projects = use_residual and shape[0] != shape[1]
        activation = parse_activation(
            config.get("activation_function", torch_name("Tanh")), str(folder / "config.json"), DENSE_ACTIVATIONS
        )
        shapes = {
            "linear.weight": shape,
            **({"linear.bias": shape[:1]} if config.get("bias", True) else {}),
            **({"residual.weight": shape} if projects else {}),
            **({_SLOPE: (1,)} if activation == "PReLU" else {}),
        }
        found = {name: get_tensor(arrays, name, shape, folder) for name, shape in shapes.items()}
        check_names(arrays, found, folder)
        return cls(
            weight=found["linear.weight"],
            bias=found.get("linear.bias"),
            activation=activation,
            residual=found.get("residual.weight"),
            use_residual=use_residual,
            module_input_name=get_feature_name(config, "module_input_name", folder, input_name),
            module_output_name=get_feature_name(config, "module_output_name", folder),
            slope=found.get(_SLOPE),
        )

    def __call__(self, features: Features) -> Features:
        x = features[self.module_input_name].astype(mx.float32)
        projected = x @ self.weight.T
        result = self._activated(projected if self.bias is None else projected + self.bias)
        if self.use_residual:
            result = result + (x if self.residual is None else x @ self.residual.T)
        return features.with_array(self.module_output_name, result)

    def _activated(self, x: mx.array) -> mx.array:
        if self.slope is not None:
            return mx.where(x > 0, x, self.slope * x)
        return DENSE_ACTIVATIONS[self.activation][1](x)

    @property
    def out_features(self) -> int:
        """The width W of the result."""
        return self.weight.shape[0]

    def get_embedding_dimension(self) -> int | None:
        """Return the width W of the result.

        Returns:
            `out_features`.
        """
        return self.out_features

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            in_features, out_features, bias, activation_function, the names, and use_residual if it is set.
        """
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
        """Return the weights of the module.

        Returns:
            "linear.weight", and "linear.bias", "residual.weight" and "activation_function.weight" where there are any.
        """
        named = {
            "linear.weight": self.weight,
            "linear.bias": self.bias,
            "residual.weight": self.residual,
            _SLOPE: self.slope,
        }
        return {name: array for name, array in named.items() if array is not None}


class Normalize(Module):
    """Scale embeddings (..., V) to unit length, in float32; features without them pass unchanged.

    Args:
        module_input_name: The array of the features that is read.
        module_output_name: The array that is set; None for the one that is read.
    """

    reference: ClassVar[str] = "sentence_transformers.base.modules.normalize.Normalize"

    def __init__(self, module_input_name: str = SENTENCE_EMBEDDING, module_output_name: str | None = None) -> None:
        self.module_input_name = module_input_name
        self.module_output_name = module_output_name or module_input_name

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder; a config.json is optional.

        Returns:
            The module.
        """
        config = read_module_config(folder, optional=True)
        source = get_feature_name(config, "module_input_name", folder, SENTENCE_EMBEDDING)
        return cls(source, get_feature_name(config, "module_output_name", folder))

    def __call__(self, features: Features) -> Features:
        if self.module_input_name not in features.arrays:
            return features
        return features.with_array(self.module_output_name, normalize(features[self.module_input_name]))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            module_input_name and module_output_name.
        """
        return {"module_input_name": self.module_input_name, "module_output_name": self.module_output_name}


class LayerNorm(Module):
    """Normalize "sentence_embedding" (B, V) to mean 0 and variance 1, then apply weight and bias; float32.

    Args:
        weight: (V,), float32.
        bias: (V,), float32.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm"

    def __init__(self, weight: mx.array, bias: mx.array) -> None:
        self.weight, self.bias = weight, bias

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with config.json and model.safetensors or pytorch_model.bin.

        Returns:
            The module.
        """
        shape = (check_integer(read_module_config(folder), "dimension", folder),)
        arrays = read_module_weights(folder)
        check_names(arrays, ("norm.weight", "norm.bias"), folder)
        return cls(get_tensor(arrays, "norm.weight", shape, folder), get_tensor(arrays, "norm.bias", shape, folder))

    def __call__(self, features: Features) -> Features:
        vectors = features[SENTENCE_EMBEDDING].astype(mx.float32)
        return features.with_array(SENTENCE_EMBEDDING, mx.fast.layer_norm(vectors, self.weight, self.bias, _NORM_EPS))

    def get_embedding_dimension(self) -> int | None:
        """Return the width V of the embeddings.

        Returns:
            The length of the weight.
        """
        return self.weight.shape[0]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            dimension.
        """
        return {"dimension": self.weight.shape[0]}

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "norm.weight" and "norm.bias", (V,) each.
        """
        return {"norm.weight": self.weight, "norm.bias": self.bias}


class Dropout(Module):
    """Pass features unchanged: dropout acts in training only.

    Args:
        dropout: The probability used in training; only saved.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.dropout.Dropout"

    def __init__(self, dropout: float = 0.2) -> None:
        self.dropout = dropout

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder; a config.json is optional.

        Returns:
            The module.
        """
        return cls(read_module_config(folder, optional=True).get("dropout", 0.2))

    def __call__(self, features: Features) -> Features:
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            dropout.
        """
        return {"dropout": self.dropout}
