"""WeightedLayerPooling: token embeddings as a weighted mean of the hidden states of several layers.

Reference: sentence_transformers/sentence_transformer/modules/weighted_layer_pooling.py.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.sentence_transformers.modules.base import TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    check_names,
    get_tensor,
    read_module_config,
    read_module_weights,
)
from mlx_hf_bridge.sentence_transformers.older_names import older_names


class WeightedLayerPooling(Module):
    """Replace token_embeddings by the weighted mean of the hidden states from `layer_start` on.

    Called with features that have `hidden_states`, each (B, L, D), it sets "token_embeddings" (B, L, D) in float32. As
    in the reference, features pass unchanged unless config.json of the model has `output_hidden_states`.

    Args:
        embedding_dimension: The hidden size D.
        layer_weights: One weight for each layer that is averaged, float32 of shape (layers,).
        layer_start: The index in `hidden_states` of the first layer that is averaged; 0 is the embeddings' output.
    """

    reference: ClassVar[str] = (
        "sentence_transformers.sentence_transformer.modules.weighted_layer_pooling.WeightedLayerPooling"
    )

    @older_names({"word_embedding_dimension": "embedding_dimension"})
    def __init__(self, embedding_dimension: int, layer_weights: mx.array, layer_start: int) -> None:
        self.embedding_dimension = embedding_dimension
        self.layer_weights = layer_weights
        self.layer_start = layer_start

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with config.json and model.safetensors or pytorch_model.bin.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        start = check_integer(config, "layer_start", folder, 4, least=0)
        # + 1, since hidden states start with the embeddings. 4 and 12 are sentence-transformers' defaults.
        count = check_integer(config, "num_hidden_layers", folder, 12) + 1 - start
        arrays = read_module_weights(folder)
        weights = get_tensor(arrays, "layer_weights", (count,), folder)
        check_names(arrays, ("layer_weights",), folder)
        return cls(check_integer(config, "embedding_dimension", folder), weights, start)

    def __call__(self, features: Features) -> Features:
        if features.hidden_states is None:
            return features
        total = sum(
            weight * layer.astype(mx.float32)
            for weight, layer in zip(self.layer_weights, features.hidden_states[self.layer_start :], strict=True)
        )
        return features.with_array(TOKEN_EMBEDDINGS, mx.array(total) / self.layer_weights.sum())

    def get_embedding_dimension(self) -> int | None:
        """Return the hidden size D.

        Returns:
            The width of the token embeddings.
        """
        return self.embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            embedding_dimension, layer_start and num_hidden_layers.
        """
        return {
            "embedding_dimension": self.embedding_dimension,
            "layer_start": self.layer_start,
            "num_hidden_layers": self.layer_weights.size + self.layer_start - 1,
        }

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "layer_weights" (layers,), float32.
        """
        return {"layer_weights": self.layer_weights}
