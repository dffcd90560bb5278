"""SpladePooling and SparseAutoEncoder: sparse vectors from a masked language model's scores, or from a dense vector.

Reference: sentence_transformers/sparse_encoder/modules/{splade_pooling,sparse_auto_encoder}.py. B texts, L tokens,
V words, D width of the dense vector, H that of the sparse one.
"""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Features, Module
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    get_tensor,
    read_module_config,
    read_module_weights,
)

_STRATEGIES = ("max", "sum")
_ACTIVATIONS = ("relu", "log1p_relu")
# Added to the standard deviation in the reference's LN().
_NORM_EPS = 1e-5


class SpladePooling(Module):
    """Scores of words by token (B, L, V) -> log(1 + relu) of them, their largest or sum over the tokens (B, V)."""

    reference: ClassVar[str] = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"

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
                f"activation_function={activation_function!r}; known are {_STRATEGIES} and {_ACTIVATIONS}."
            )
        self.pooling_strategy, self.activation_function = pooling_strategy, activation_function
        self.embedding_dimension, self.chunk_size = embedding_dimension, chunk_size

    @classmethod
    def read(cls, folder: Path) -> Self:
        config = read_module_config(folder)
        keys = ("pooling_strategy", "activation_function", "embedding_dimension")
        return cls(**{key: config[key] for key in keys if config.get(key) is not None})

    def __call__(self, features: Features) -> Features:
        scores, mask = features[TOKEN_EMBEDDINGS], features.batch.token_mask(mx.bool_)
        step = self.chunk_size if self.chunk_size and self.chunk_size > 0 else scores.shape[1]
        starts = range(0, scores.shape[1], step)
        parts = [self._pooled(scores[:, start : start + step], mask[:, start : start + step]) for start in starts]
        stacked = mx.stack(parts)
        pooled = self._activated(stacked.max(axis=0)) if self.pooling_strategy == "max" else stacked.sum(axis=0)
        self.embedding_dimension = pooled.shape[1]
        return features.with_array(SENTENCE_EMBEDDING, pooled)

    def _pooled(self, scores: mx.array, mask: mx.array) -> mx.array:
        """The activation keeps the order of scores, so that after a maximum it is applied once a word."""
        seen = mx.where(mask, scores, mx.array(0, scores.dtype))
        return seen.max(axis=1) if self.pooling_strategy == "max" else self._activated(seen).sum(axis=1)

    def _activated(self, scores: mx.array) -> mx.array:
        logs = mx.log1p(mx.maximum(scores.astype(mx.float32), 0))
        return mx.log1p(logs) if self.activation_function == "log1p_relu" else logs

    def get_embedding_dimension(self) -> int | None:
        return self.embedding_dimension

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "pooling_strategy": self.pooling_strategy,
            "activation_function": self.activation_function,
            "embedding_dimension": self.embedding_dimension,
        }


class SparseAutoEncoder(Module):
    """sentence_embedding (B, D) -> the k largest of a product, negative ones as 0 (B, H); CSR, arXiv 2503.01776."""

    reference: ClassVar[str] = "sentence_transformers.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder"
    forward_kwargs: ClassVar[frozenset[str]] = frozenset({"max_active_dims"})

    def __init__(self, config: dict[str, Any], arrays: dict[str, mx.array]) -> None:
        self._config, self._arrays = config, arrays
        self.k = int(config["k"])
        self.normalize = bool(config.get("normalize", False))

    @classmethod
    def read(cls, folder: Path) -> Self:
        config = read_module_config(folder)
        number = partial(check_integer, config, folder=folder)
        width, hidden = number("input_dim"), number("hidden_dim", default=512)
        arrays = read_module_weights(folder, exact=("stats_last_nonzero",))
        # The decoder is the encoder transposed, and a file holds the one tensor under either name.
        tied = arrays.pop("decoder.linear.weight", None)
        if tied is not None:
            arrays.setdefault("encoder.weight", tied)
        shapes = {"encoder.weight": (hidden, width), "pre_bias": (width,), "latent_bias": (hidden,)}
        for name, shape in shapes.items():
            get_tensor(arrays, name, shape, folder)
        return cls({**config, "hidden_dim": hidden, "k": number("k", default=8)}, arrays)

    def __call__(self, features: Features) -> Features:
        vectors = features[SENTENCE_EMBEDDING].astype(mx.float32)
        if self.normalize:
            vectors = vectors - vectors.mean(axis=-1, keepdims=True)
            vectors = vectors / (mx.std(vectors, axis=-1, keepdims=True, ddof=1) + _NORM_EPS)
        product = (vectors - self._arrays["pre_bias"]) @ self._arrays["encoder.weight"].T + self._arrays["latent_bias"]
        kept = keep_largest(product, product, features.max_active_dims or self.k)
        return features.with_array(SENTENCE_EMBEDDING, mx.maximum(kept, 0))

    def get_embedding_dimension(self) -> int | None:
        return int(self._config["hidden_dim"])

    def get_config_dict(self) -> dict[str, Any]:
        return self._config

    def arrays(self) -> dict[str, mx.array]:
        return self._arrays


def keep_largest(vectors: mx.array, ranked_by: mx.array, count: int) -> mx.array:
    """vectors (B, V) -> kept where `ranked_by` (B, V) is among the `count` largest of its row, 0 elsewhere."""
    if count >= vectors.shape[1]:
        return vectors
    places = mx.argpartition(-ranked_by, count - 1, axis=1)[:, :count]
    values = mx.take_along_axis(vectors, places, axis=1)
    return mx.put_along_axis(mx.zeros_like(vectors), places, values, axis=1)
