"""Embeddings without an encoder: the mean of token embeddings, and one weight for each token of the vocabulary.

Reference: sentence_transformers/sentence_transformer/modules/static_embedding.py,
sparse_encoder/modules/sparse_static_embedding.py. Shapes: B texts, L tokens, V vocabulary size, D width.
"""

import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.checkpoints.paths import relative_path
from mlx_hf_bridge.conversion.tokenizer_class import tokenizer_config
from mlx_hf_bridge.errors import ConfigError, TokenRangeError
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Features
from mlx_hf_bridge.sentence_transformers.modules.input import (
    EncodeOptions,
    InputModule,
    add_prompt,
    check_optional_length,
)
from mlx_hf_bridge.sentence_transformers.modules.model2vec import expand_embeddings
from mlx_hf_bridge.sentence_transformers.modules.weights import read_module_config, read_module_weights

# The id at padded positions, which the mask excludes; any row of the table would do.
_PADDING_ID = 0


class StaticEmbedding(InputModule):
    """Set "sentence_embedding" (B, D) to the mean of each text's token embeddings; zeros for a text without tokens.

    Args:
        tokenizer: The tokenizer of the module.
        weight: The token embedding table (V, D), float32.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"

    def __init__(self, tokenizer: Tokenizer, weight: mx.array) -> None:
        self.tokenizer, self.weight = tokenizer, weight

    @property
    def max_seq_length(self) -> float:
        """Infinity, as in sentence-transformers: texts are truncated only if tokenizer.json says so; cannot be set."""
        return math.inf

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder: embedding.weight, or model2vec's embeddings with their mapping and weights.

        Args:
            folder: The module's folder, with a tokenizer and model.safetensors or pytorch_model.bin.

        Returns:
            The module.

        Raises:
            ConfigError: If the file has neither `embedding.weight` nor `embeddings` with two axes of floats.
            TokenRangeError: If the mapping names rows that the table does not have.
        """
        arrays = read_module_weights(folder, exact=("mapping",))
        weight = arrays["embedding.weight"] if "embedding.weight" in arrays else expand_embeddings(arrays, folder)
        if weight is None or weight.ndim != 2 or not mx.issubdtype(weight.dtype, mx.floating):
            found = {name: (*array.shape, str(array.dtype)) for name, array in arrays.items()}
            raise ConfigError(
                f"{folder} has the tensors {found!r:.300}, expected embedding.weight or embeddings (tokens, width) of "
                "floats. Take the original files."
            )
        return cls(Tokenizer.from_folder(folder, {}), weight)

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Tokenize texts with the prompt before each, without special tokens.

        Args:
            texts: Texts, or pairs of texts.
            options: The options of the call; the prompt is read.

        Returns:
            The tokens of each text, in order, without padding.
        """
        saved = self.tokenizer.saved_truncation or {"max_length": None, "strategy": "longest_first"}
        # The mean would count special tokens as words.
        return self.tokenizer.encode(
            add_prompt(texts, options.prompt), saved["max_length"], saved["strategy"], add_special_tokens=False
        )

    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        """Pad the tokens of one batch and pack them into features.

        Args:
            tokens: The tokens of B texts.
            options: The options of the same call.

        Returns:
            Features whose ids and mask have the shape (B, L).
        """
        return _features(tokens, self.weight.shape[0], options)

    def __call__(self, features: Features) -> Features:
        mask = features.batch.token_mask(mx.float32)
        total = (self.weight[_checked_ids(features, self.weight.shape[0])] * mask).sum(axis=1)
        return features.with_array(SENTENCE_EMBEDDING, total / mx.maximum(mask.sum(axis=1), 1))

    def get_embedding_dimension(self) -> int | None:
        """Return the width D of the embeddings.

        Returns:
            The number of columns of the table.
        """
        return self.weight.shape[1]

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "embedding.weight" (V, D), float32.
        """
        return {"embedding.weight": self.weight}

    def save(self, folder: Path) -> None:
        """Write the table and the tokenizer into a folder.

        Args:
            folder: An existing folder for this module.
        """
        super().save(folder)
        self.tokenizer.save(folder)


class SparseStaticEmbedding(InputModule):
    """Set "sentence_embedding" (B, V) to the weights of the tokens that occur in each text, and 0 elsewhere.

    Args:
        tokenizer: The tokenizer of the module.
        weight: One weight for each token, such as its inverse document frequency; float32 of shape (V,).
        frozen: Whether the weights are fixed in training; only saved.
    """

    reference: ClassVar[str] = (
        "sentence_transformers.sparse_encoder.modules.sparse_static_embedding.SparseStaticEmbedding"
    )

    def __init__(self, tokenizer: Tokenizer, weight: mx.array, frozen: bool = False) -> None:
        self.tokenizer, self.weight, self.frozen = tokenizer, weight, frozen

    @property
    def max_seq_length(self) -> int | None:
        """The most tokens of a text; can be set. None for no limit."""
        return self.tokenizer.model_max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int | None) -> None:
        self.tokenizer.model_max_length = check_optional_length(length)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder: the weights, or the JSON file of tokens with weights that config.json names.

        Args:
            folder: The module's folder, with config.json, a tokenizer and the weights.

        Returns:
            The module.

        Raises:
            ConfigError: If the file has no tensor `weight` with one axis.
        """
        config = read_module_config(folder)
        tokenizer = Tokenizer.from_folder(folder, tokenizer_config(folder))
        weights_file = config.get("path")
        if weights_file is not None:
            return cls(
                tokenizer,
                _weights_of(read_json(folder / PurePosixPath(relative_path(weights_file, folder)).name), tokenizer),
                bool(config.get("frozen", False)),
            )
        weight = read_module_weights(folder).get("weight")
        if weight is None or weight.ndim != 1:
            raise ConfigError(
                f"{folder} has no tensor 'weight' with one number for each token. Take the original files."
            )
        return cls(tokenizer, weight, bool(config.get("frozen", False)))

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Tokenize texts with the prompt before each, without special tokens.

        Args:
            texts: Texts, or pairs of texts.
            options: The options of the call; the prompt is read.

        Returns:
            The tokens of each text, in order, without padding.
        """
        return self.tokenizer.encode(add_prompt(texts, options.prompt), self.max_seq_length, add_special_tokens=False)

    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        """Pad the tokens of one batch and pack them into features.

        Args:
            tokens: The tokens of B texts.
            options: The options of the same call.

        Returns:
            Features whose ids and mask have the shape (B, L).
        """
        return _features(tokens, self.weight.shape[0], options)

    def __call__(self, features: Features) -> Features:
        ids = _checked_ids(features, self.weight.shape[0])
        rows = mx.broadcast_to(mx.arange(ids.shape[0])[:, None], ids.shape)
        # maximum: a token that occurs twice counts once, and padding (0) changes nothing.
        occurs = mx.zeros((ids.shape[0], self.weight.shape[0])).at[rows, ids].maximum(features.mask.astype(mx.float32))
        weights = occurs * self.weight
        if SENTENCE_EMBEDDING in features.arrays:
            weights = weights * features[SENTENCE_EMBEDDING]
        return features.with_array(SENTENCE_EMBEDDING, weights)

    def get_embedding_dimension(self) -> int | None:
        """Return the vocabulary size V.

        Returns:
            The number of weights.
        """
        return self.weight.shape[0]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            frozen.
        """
        return {"frozen": self.frozen}

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "weight" (V,), float32.
        """
        return {"weight": self.weight}

    def save(self, folder: Path) -> None:
        """Write the weights, config.json and the tokenizer into a folder.

        Args:
            folder: An existing folder for this module.
        """
        super().save(folder)
        self.tokenizer.save(folder)


def _features(tokens: list[Tokens], rows: int, options: EncodeOptions) -> Features:
    """Return features padded to the longest text, one position at least; TokenRangeError for ids beyond the table."""
    longest = max(1, *(len(one) for one in tokens))
    ids = np.full((len(tokens), longest), _PADDING_ID, np.int32)
    mask = np.zeros((len(tokens), longest), bool)
    for row, one in enumerate(tokens):
        ids[row, : len(one)], mask[row, : len(one)] = one.ids, True
    _check_range(int(ids.max()), rows)
    batch = TokenBatch(mx.array(ids), mx.array(mask))
    return Features(batch, task=options.task, max_active_dims=options.max_active_dims, checked_rows=rows)


def _checked_ids(features: Features, rows: int) -> mx.array:
    """Return the ids (B, L), checked against the table: those of another module's tokenizer may be beyond it."""
    ids = features.batch.ids
    if features.checked_rows != rows and ids.size:
        largest: Any = mx.max(ids).item()
        _check_range(int(largest), rows)
    return ids


def _check_range(largest: int, rows: int) -> None:
    if largest >= rows:
        raise TokenRangeError(
            f"the tokenizer produces ids up to {largest}, and the table has {rows} rows. "
            "Check that the tokenizer belongs to the model."
        )


def _weights_of(token_weights: Any, tokenizer: Tokenizer) -> mx.array:
    """Return the weights (V,) of a dict from tokens to weights; unknown tokens are ignored, others weigh 0."""
    weights = np.zeros(tokenizer.backend.get_vocab_size(), np.float32)
    for token, weight in token_weights.items():
        found = tokenizer.convert_tokens_to_ids(token)
        if found is not None:
            weights[found] = weight
    return mx.array(weights)
