"""Embeddings without an encoder: the mean of words' vectors, and words' weights.

Reference: sentence_transformers/sentence_transformer/modules/static_embedding.py,
sparse_encoder/modules/sparse_static_embedding.py. B texts, L tokens, V words, D width.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.conversion.tokenizer_files import tokenizer_config
from mlx_hf_bridge.errors import ConfigError, TokenRangeError
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Features
from mlx_hf_bridge.sentence_transformers.modules.input import EncodeOptions, InputModule, add_prompt
from mlx_hf_bridge.sentence_transformers.modules.weights import read_module_config, read_module_weights

_UNUSED_ID = 0


class StaticEmbedding(InputModule):
    """Texts -> the mean of their tokens' rows of a table (V, D); zeros for a text without tokens."""

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    max_seq_length = math.inf

    def __init__(self, tokenizer: Tokenizer, weight: mx.array) -> None:
        self.tokenizer, self.weight = tokenizer, weight

    @classmethod
    def read(cls, folder: Path) -> Self:
        """embedding.weight, or model2vec's embeddings with their mapping and weights by token."""
        arrays = read_module_weights(folder, exact=("mapping",))
        weight = arrays.get("embedding.weight", arrays.get("embeddings"))
        if weight is None or weight.ndim != 2:
            raise ConfigError(
                f"{folder} has the tensors {sorted(arrays)}, expected embedding.weight or embeddings (words, width). "
                "Take the original files."
            )
        if "mapping" in arrays:
            weight = weight[arrays["mapping"].astype(mx.int32)]
        if "weights" in arrays:
            weight = weight * arrays["weights"].astype(mx.float32)[:, None]
        return cls(Tokenizer.from_folder(folder, {}), weight)

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        limit = self.tokenizer.saved_max_length
        return self.tokenizer.encode(add_prompt(texts, options.prompt), limit, add_special_tokens=False)

    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        return _features(tokens, self.weight.shape[0], options)

    def __call__(self, features: Features) -> Features:
        mask = features.batch.token_mask(mx.float32)
        total = (self.weight[features.batch.ids] * mask).sum(axis=1)
        return features.with_array(SENTENCE_EMBEDDING, total / mx.maximum(mask.sum(axis=1), 1))

    def get_embedding_dimension(self) -> int | None:
        return self.weight.shape[1]

    def arrays(self) -> dict[str, mx.array]:
        return {"embedding.weight": self.weight}

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.tokenizer.save(folder)


class SparseStaticEmbedding(InputModule):
    """Texts -> the weights (B, V) of the words that occur in them."""

    reference: ClassVar[str] = (
        "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
    )

    def __init__(self, tokenizer: Tokenizer, weight: mx.array, frozen: bool = False) -> None:
        self.tokenizer, self.weight, self.frozen = tokenizer, weight, frozen
        self.max_seq_length = tokenizer.model_max_length

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The weights of a file, or of the JSON file of words with weights that config.json names."""
        config = read_module_config(folder)
        tokenizer = Tokenizer.from_folder(folder, tokenizer_config(folder))
        words = config.get("path")
        if words is not None:
            return cls(tokenizer, _weights_of(read_json(folder / Path(words).name), tokenizer), bool(config["frozen"]))
        weight = read_module_weights(folder).get("weight")
        if weight is None or weight.ndim != 1:
            raise ConfigError(f"{folder} has no tensor 'weight' with a weight a word. Take the original files.")
        return cls(tokenizer, weight, bool(config.get("frozen", False)))

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        return self.tokenizer.encode(add_prompt(texts, options.prompt), self.max_seq_length, add_special_tokens=False)

    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        return _features(tokens, self.weight.shape[0], options)

    def __call__(self, features: Features) -> Features:
        ids = features.batch.ids
        rows = mx.broadcast_to(mx.arange(ids.shape[0])[:, None], ids.shape)
        occurs = mx.zeros((ids.shape[0], self.weight.shape[0])).at[rows, ids].maximum(features.mask.astype(mx.float32))
        weights = occurs * self.weight
        if SENTENCE_EMBEDDING in features.arrays:
            weights = weights * features[SENTENCE_EMBEDDING]
        return features.with_array(SENTENCE_EMBEDDING, weights)

    def get_embedding_dimension(self) -> int | None:
        return self.weight.shape[0]

    def get_config_dict(self) -> dict[str, Any]:
        return {"frozen": self.frozen}

    def arrays(self) -> dict[str, mx.array]:
        return {"weight": self.weight}

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.tokenizer.save(folder)


def _features(tokens: list[Tokens], rows: int, options: EncodeOptions) -> Features:
    """Padded to the longest, at least one slot; TokenRangeError for ids that the table has no row for."""
    longest = max(1, *(len(one) for one in tokens))
    ids = np.full((len(tokens), longest), _UNUSED_ID, np.int32)
    mask = np.zeros((len(tokens), longest), bool)
    for row, one in enumerate(tokens):
        ids[row, : len(one)], mask[row, : len(one)] = one.ids, True
    if ids.max() >= rows:
        raise TokenRangeError(
            f"the tokenizer gives ids up to {ids.max()}, and the table has {rows} rows. "
            "Check that the tokenizer belongs to the model."
        )
    return Features(
        TokenBatch(mx.array(ids), mx.array(mask)), task=options.task, max_active_dims=options.max_active_dims
    )


def _weights_of(words: Any, tokenizer: Tokenizer) -> mx.array:
    weights = np.zeros(tokenizer.backend.get_vocab_size(), np.float32)
    for word, weight in words.items():
        found = tokenizer.convert_tokens_to_ids(word)
        if found is not None:
            weights[found] = weight
    return mx.array(weights)
