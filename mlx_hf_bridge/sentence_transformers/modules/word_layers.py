"""CNN and LSTM: layers over token embeddings, from the models before transformers.

Reference: sentence_transformers/sentence_transformer/modules/{cnn,lstm}.py.
Shapes: B texts, L tokens, D width, H hidden width of one direction, O channels.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.lstm import run_lstm
from mlx_hf_bridge.sentence_transformers.modules.base import TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    check_names,
    get_tensor,
    read_module_config,
    read_module_weights,
)


class CNN(Module):
    """Replace "token_embeddings" (B, L, D) by convolutions of several widths, concatenated: (B, L, O x widths).

    Padding is seen at the ends of texts, so a batch holds texts of one length.

    Args:
        weights: One weight (O, width, D) for each convolution, float32.
        biases: Its bias (O,).
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.cnn.CNN"
    config_file: ClassVar[str] = "cnn_config.json"
    independent_length: int = 0

    def __init__(self, weights: Sequence[mx.array], biases: Sequence[mx.array]) -> None:
        self.weights, self.biases = list(weights), list(biases)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with cnn_config.json and the weights.

        Returns:
            The module.

        Raises:
            ConfigError: If the convolutions would not keep the number of tokens, which poolings after them need.
        """
        config = read_module_config(folder, name=cls.config_file)
        arrays = read_module_weights(folder)
        width, channels = check_integer(config, "in_embedding_dimension", folder), config.get("out_channels", 256)
        sizes, strides = config.get("kernel_sizes", [1, 3, 5]), config.get("stride_sizes")
        odd = isinstance(sizes, list) and all(type(size) is int and size > 0 and size % 2 for size in sizes)
        if not odd or not sizes or not set(strides or [1]) <= {1}:
            raise ConfigError(
                f"{folder / cls.config_file} has kernel_sizes={sizes!r} and stride_sizes={strides!r}; expected odd "
                "sizes and strides of 1: others change the number of tokens, which sentence-transformers cannot pool."
            )
        shapes = [(channels, width, size) for size in sizes]
        weights = [get_tensor(arrays, f"convs.{i}.weight", shape, folder) for i, shape in enumerate(shapes)]
        biases = [get_tensor(arrays, f"convs.{i}.bias", (channels,), folder) for i in range(len(shapes))]
        check_names(arrays, [f"convs.{i}.{kind}" for i in range(len(shapes)) for kind in ("weight", "bias")], folder)
        return cls([one.transpose(0, 2, 1) for one in weights], biases)

    def __call__(self, features: Features) -> Features:
        x = features[TOKEN_EMBEDDINGS].astype(mx.float32)
        found = [
            mx.conv1d(x, weight, padding=weight.shape[1] // 2) + bias
            for weight, bias in zip(self.weights, self.biases, strict=True)
        ]
        return features.with_array(TOKEN_EMBEDDINGS, mx.concatenate(found, axis=-1))

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the result.

        Returns:
            The channels of all convolutions.
        """
        return sum(weight.shape[0] for weight in self.weights)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of cnn_config.json.

        Returns:
            in_embedding_dimension, out_channels, kernel_sizes and stride_sizes.
        """
        return {
            "in_embedding_dimension": self.weights[0].shape[2],
            "out_channels": self.weights[0].shape[0],
            "kernel_sizes": [weight.shape[1] for weight in self.weights],
            "stride_sizes": [1] * len(self.weights),
        }

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "convs.0.weight" (O, D, width), "convs.0.bias" (O,) and so on, float32.
        """
        weights = {f"convs.{i}.weight": weight.transpose(0, 2, 1) for i, weight in enumerate(self.weights)}
        return weights | {f"convs.{i}.bias": bias for i, bias in enumerate(self.biases)}


class LSTM(Module):
    """Replace "token_embeddings" (B, L, D) by the hidden states of an LSTM, (B, L, H) or (B, L, 2 H) in two directions.

    Args:
        parameters: torch's tensors by name ("encoder.weight_ih_l0"), float32.
        num_layers: How many layers.
        bidirectional: Whether each layer runs in both directions.
        dropout: Only saved: there is none after training.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.lstm.LSTM"
    config_file: ClassVar[str] = "lstm_config.json"

    def __init__(
        self, parameters: Mapping[str, mx.array], num_layers: int, bidirectional: bool, dropout: float = 0
    ) -> None:
        self._parameters = dict(parameters)
        self.num_layers, self.bidirectional, self.dropout = num_layers, bidirectional, dropout

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with lstm_config.json and the weights.

        Returns:
            The module.
        """
        config = read_module_config(folder, name=cls.config_file)
        arrays = read_module_weights(folder)
        width, hidden = (check_integer(config, key, folder) for key in ("embedding_dimension", "hidden_dim"))
        layers, both = check_integer(config, "num_layers", folder, 1), bool(config.get("bidirectional", True))
        found = {}
        for layer in range(layers):
            for suffix in ("", "_reverse") if both else ("",):
                inputs = width if layer == 0 else hidden * (1 + both)
                shapes = {
                    "weight_ih": (4 * hidden, inputs),
                    "weight_hh": (4 * hidden, hidden),
                    "bias_ih": (4 * hidden,),
                    "bias_hh": (4 * hidden,),
                }
                for name, shape in shapes.items():
                    full = f"encoder.{name}_l{layer}{suffix}"
                    found[full] = get_tensor(arrays, full, shape, folder)
        check_names(arrays, found, folder)
        return cls(found, layers, both, config.get("dropout", 0))

    def __call__(self, features: Features) -> Features:
        x = features[TOKEN_EMBEDDINGS].astype(mx.float32)
        # A text without tokens has the one position of padding, as in sentence-transformers.
        lengths = features.mask.astype(mx.int32).sum(axis=1)
        parameters = {name.removeprefix("encoder."): array for name, array in self._parameters.items()}
        found = run_lstm(x, lengths, parameters, self.num_layers, self.bidirectional)
        return features.with_array(TOKEN_EMBEDDINGS, found)

    @property
    def hidden_dim(self) -> int:
        """The width H of one direction."""
        return self._parameters["encoder.weight_hh_l0"].shape[1]

    def get_embedding_dimension(self) -> int | None:
        """Return the width of the result.

        Returns:
            H, or 2 H in two directions.
        """
        return self.hidden_dim * (1 + self.bidirectional)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of lstm_config.json.

        Returns:
            embedding_dimension, hidden_dim, num_layers, dropout and bidirectional.
        """
        return {
            "embedding_dimension": self._parameters["encoder.weight_ih_l0"].shape[1],
            "hidden_dim": self.hidden_dim,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "bidirectional": self.bidirectional,
        }

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            torch's tensors by name, float32.
        """
        return self._parameters
