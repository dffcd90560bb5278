"""SpladePooling and SparseAutoEncoder: sparse embeddings from masked-language-model logits, or from a dense embedding.

Reference: sentence_transformers/sparse_encoder/modules/{splade_pooling,sparse_auto_encoder}.py. Shapes: B texts,
L tokens, V vocabulary size, D width of the dense embedding, H width of the sparse one.
"""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    check_names,
    get_tensor,
    read_module_config,
    read_module_weights,
)
from mlx_hf_bridge.sentence_transformers.older_names import older_names

_STRATEGIES = ("max", "sum")
_ACTIVATIONS = ("relu", "log1p_relu")
# Added to the standard deviation, not to the variance, as in the reference's LN().
_NORM_EPS = 1e-5


class SpladePooling(Module):
    """Pool masked-language-model logits "token_embeddings" (B, L, V) into a sparse "sentence_embedding" (B, V).

    Each logit becomes log(1 + relu(logit)), of which the maximum or the sum over the tokens is taken
    (SPLADE, arXiv 2107.05720).

    Args:
        pooling_strategy: "max" or "sum".
        activation_function: "relu", or "log1p_relu" for a second log1p.
        embedding_dimension: V; None until the first call.
        chunk_size: How many tokens are pooled at a time, which bounds memory; None for all at once.

    Raises:
        ConfigError: If the strategy or the activation is not known.
    """

    reference: ClassVar[str] = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"

    @older_names({"word_embedding_dimension": "embedding_dimension"})
    def __init__(
        self,
        pooling_strategy: str = "max",
        activation_function: str = "relu",
        embedding_dimension: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        if pooling_strategy not in _STRATEGIES or activation_function not in _ACTIVATIONS:
            raise ConfigError(
                f"SpladePooling has pooling_strategy={pooling_strategy!r} and "
                f"activation_function={activation_function!r}; known are {_STRATEGIES} and {_ACTIVATIONS}. "
                "Take the original config.json."
            )
        self.pooling_strategy, self.activation_function = pooling_strategy, activation_function
        self.embedding_dimension, self.chunk_size = embedding_dimension, chunk_size

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        keys = ("pooling_strategy", "activation_function", "embedding_dimension")
        return cls(**{key: config[key] for key in keys if config.get(key) is not None})

    def __call__(self, features: Features) -> Features:
        logits, mask = features[TOKEN_EMBEDDINGS], features.batch.token_mask(mx.bool_)
        step = self.chunk_size if self.chunk_size and self.chunk_size > 0 else logits.shape[1]
        starts = range(0, logits.shape[1], step)
        parts = [self._pooled(logits[:, start : start + step], mask[:, start : start + step]) for start in starts]
        stacked = mx.stack(parts)
        pooled = self._activated(stacked.max(axis=0)) if self.pooling_strategy == "max" else stacked.sum(axis=0)
        self.embedding_dimension = pooled.shape[1]
        return features.with_array(SENTENCE_EMBEDDING, pooled)

    def _pooled(self, logits: mx.array, mask: mx.array) -> mx.array:
        # The activation is monotonic: applied after the maximum it runs once per column, with the same result.
        # 0 and not -inf: the activation maps both to 0, and a text without tokens gives zeros.
        seen = mx.where(mask, logits, mx.array(0, logits.dtype))
        return seen.max(axis=1) if self.pooling_strategy == "max" else self._activated(seen).sum(axis=1)

    def _activated(self, logits: mx.array) -> mx.array:
        # log1p keeps the digits of small activations, which log(1 + x) would round away.
        logs = mx.log1p(mx.maximum(logits.astype(mx.float32), 0))
        return mx.log1p(logs) if self.activation_function == "log1p_relu" else logs

    def get_embedding_dimension(self) -> int | None:
        """Return the vocabulary size V.

        Returns:
            The width, or None before the first call if the config does not say.
        """
        return self.embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            pooling_strategy, activation_function and embedding_dimension.
        """
        return {
            "pooling_strategy": self.pooling_strategy,
            "activation_function": self.activation_function,
            "embedding_dimension": self.embedding_dimension,
        }


class SparseAutoEncoder(Module):
    """Encode a dense "sentence_embedding" (B, D) as a sparse one (B, H): the k largest activations, negative ones as 0.

    The method is CSR (arXiv 2503.01776).

    Args:
        config: The content of config.json; "k", "hidden_dim" and "normalize" are read.
        arrays: "encoder.weight" (H, D), "pre_bias" (D,) and "latent_bias" (H,), float32; others are kept for saving.
    """

    reference: ClassVar[str] = "sentence_transformers.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder"
    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"max_active_dims"})

    def __init__(self, config: dict[str, Any], arrays: dict[str, mx.array]) -> None:
        self._config, self._arrays = config, arrays
        self.k = int(config["k"])
        self.normalize = bool(config.get("normalize", False))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with config.json and model.safetensors or pytorch_model.bin.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        number = partial(check_integer, config, folder=folder)
        width, hidden = number("input_dim"), number("hidden_dim", default=512)
        arrays = read_module_weights(folder, exact=("stats_last_nonzero",))
        # The decoder is the transposed encoder: files hold the one shared tensor under either name.
        tied = arrays.pop("decoder.linear.weight", None)
        if tied is not None:
            arrays.setdefault("encoder.weight", tied)
        shapes = {"encoder.weight": (hidden, width), "pre_bias": (width,), "latent_bias": (hidden,)}
        for name, shape in shapes.items():
            get_tensor(arrays, name, shape, folder)
        check_names(arrays, (*shapes, "stats_last_nonzero"), folder)
        return cls({**config, "hidden_dim": hidden, "k": number("k", default=8)}, arrays)

    def __call__(self, features: Features) -> Features:
        vectors = features[SENTENCE_EMBEDDING].astype(mx.float32)
        if self.normalize:
            vectors = vectors - vectors.mean(axis=-1, keepdims=True)
            # ddof=1 is the default of torch's std.
            vectors = vectors / (mx.std(vectors, axis=-1, keepdims=True, ddof=1) + _NORM_EPS)
        latents = (vectors - self._arrays["pre_bias"]) @ self._arrays["encoder.weight"].T + self._arrays["latent_bias"]
        kept = keep_largest(latents, latents, features.max_active_dims or self.k)
        return features.with_array(SENTENCE_EMBEDDING, mx.maximum(kept, 0))

    def get_embedding_dimension(self) -> int | None:
        """Return the width H of the sparse embedding.

        Returns:
            "hidden_dim" of the config.
        """
        return int(self._config["hidden_dim"])

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            The config as it was read.
        """
        return self._config

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            The tensors as they were read, by name.
        """
        return self._arrays


def keep_largest(vectors: mx.array, ranked_by: mx.array, count: int) -> mx.array:
    """Set all but the largest dimensions of each row to 0.

    Args:
        vectors: Embeddings (B, V).
        ranked_by: What the dimensions are ranked by (B, V), for example the absolute values.
        count: How many dimensions of a row are kept; V or more keeps all.

    Returns:
        Embeddings (B, V). Of dimensions that tie for the last rank, any may be kept.
    """
    if count >= vectors.shape[1]:
        return vectors
    # MLX partitions by the smallest values, hence the minus.
    kept = mx.argpartition(-ranked_by, count - 1, axis=1)[:, :count]
    values = mx.take_along_axis(vectors, kept, axis=1)
    return mx.put_along_axis(mx.zeros_like(vectors), kept, values, axis=1)
