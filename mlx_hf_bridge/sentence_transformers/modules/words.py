"""Word vectors and bags of words: models without an encoder whose vocabulary is a list of words.

Reference: sentence_transformers/sentence_transformer/modules/{word_embeddings,bow,word_weights}.py.
Shapes: B texts, L words, V vocabulary size, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ConfigError, InputError, TokenRangeError
from mlx_hf_bridge.inference.batching import report_truncation
from mlx_hf_bridge.inference.tokenizer import Text, Tokens
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.runtime.file_errors import config_errors
from mlx_hf_bridge.sentence_transformers.modules.base import (
    SENTENCE_EMBEDDING,
    TOKEN_EMBEDDINGS,
    TOKEN_WEIGHTS_SUM,
    Features,
    Module,
)
from mlx_hf_bridge.sentence_transformers.modules.input import (
    EncodeOptions,
    InputModule,
    add_prompt,
    check_optional_length,
)
from mlx_hf_bridge.sentence_transformers.modules.weights import (
    check_integer,
    read_module_config,
    read_module_weights,
)
from mlx_hf_bridge.sentence_transformers.modules.word_tokenizers import WhitespaceTokenizer, read_word_tokenizer

# sentence-transformers' default: no limit in practice.
_NO_LIMIT = 1_000_000


class _WordModule(InputModule):
    """What both modules share: words as tokens, of texts that are not pairs."""

    tokenizer: WhitespaceTokenizer  # type: ignore[assignment]
    # The most words of a text.
    _max_length: int | None = None
    _warned_truncation = False

    def tokens(self, texts: Sequence[Text], options: EncodeOptions) -> list[Tokens]:
        """Look up the words of texts with the prompt before each.

        Args:
            texts: Texts.
            options: The options of the call; prompt and overlong are read.

        Returns:
            The ids of the known words of each text, in order.

        Raises:
            InputError: If a text is a pair.
        """
        if any(not isinstance(text, str) for text in texts):
            raise InputError(f"{type(self).__name__} reads texts, and was given a pair. Give the texts one by one.")
        found = [self._words(str(text)) for text in add_prompt(texts, options.prompt)]
        self._warned_truncation = report_truncation(
            found, self._max_length or 0, options.overlong or "truncate", self._warned_truncation
        )
        return found

    def _words(self, text: str) -> Tokens:
        ids = self.tokenizer.tokenize(text)
        kept = ids[: self._max_length]
        return Tokens(np.array(kept, np.int32), None, len(ids) > len(kept))

    def features(self, tokens: list[Tokens], options: EncodeOptions) -> Features:
        """Pad the words of one batch and pack them into features.

        Args:
            tokens: The words of B texts.
            options: The options of the same call.

        Returns:
            Features whose ids and mask have the shape (B, L); padding has the id 0, as in sentence-transformers.
        """
        longest = max(1, *(len(one) for one in tokens))
        ids, mask = np.zeros((len(tokens), longest), np.int32), np.zeros((len(tokens), longest), bool)
        for row, one in enumerate(tokens):
            ids[row, : len(one)], mask[row, : len(one)] = one.ids, True
        return Features(TokenBatch(mx.array(ids), mx.array(mask)), task=options.task)


class WordEmbeddings(_WordModule):
    """Set "token_embeddings" (B, L, D) to the vector of each word.

    Args:
        tokenizer: The tokenizer, whose vocabulary has a word for each row.
        weight: The word vectors, (V, D), float32.
        update_embeddings: Whether training changes the vectors; only saved. Default: False.
        max_seq_length: The most words of a text. Default: 1,000,000.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.word_embeddings.WordEmbeddings"
    config_file: ClassVar[str] = "wordembedding_config.json"

    def __init__(
        self,
        tokenizer: WhitespaceTokenizer,
        weight: mx.array,
        update_embeddings: bool = False,
        max_seq_length: int = _NO_LIMIT,
    ) -> None:
        self.tokenizer, self.weight = tokenizer, weight
        self.update_embeddings, self._max_length = update_embeddings, max_seq_length
        if len(tokenizer.word2idx) > weight.shape[0]:
            raise TokenRangeError(
                f"the tokenizer has {len(tokenizer.word2idx)} words, and the table has {weight.shape[0]} rows. "
                "Check that the tokenizer belongs to the model."
            )

    @property
    def max_seq_length(self) -> int | None:
        """The most words of a text; can be set. None for no limit."""
        return self._max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int | None) -> None:
        self._max_length = check_optional_length(length) or _NO_LIMIT

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with wordembedding_config.json, the tokenizer's file and the weights.

        Returns:
            The module.

        Raises:
            ConfigError: If there are no word vectors with two axes.
        """
        config = read_module_config(folder, name=cls.config_file)
        weight = read_module_weights(folder).get("emb_layer.weight")
        if weight is None or weight.ndim != 2 or 0 in weight.shape:
            raise ConfigError(f"{folder} has no emb_layer.weight of two axes. Take the original files.")
        return cls(
            read_word_tokenizer(config.get("tokenizer_class"), folder),
            weight.astype(mx.float32),
            bool(config.get("update_embeddings", False)),
            check_integer(config, "max_seq_length", folder, _NO_LIMIT),
        )

    def __call__(self, features: Features) -> Features:
        return features.with_array(TOKEN_EMBEDDINGS, self.weight[features.batch.ids])

    def get_embedding_dimension(self) -> int | None:
        """Return the width D of the word vectors.

        Returns:
            The number of columns of the table.
        """
        return self.weight.shape[1]

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of wordembedding_config.json.

        Returns:
            tokenizer_class, update_embeddings and max_seq_length.
        """
        return {
            "tokenizer_class": f"{self.tokenizer.reference}.{type(self.tokenizer).__name__}",
            "update_embeddings": self.update_embeddings,
            "max_seq_length": self._max_length,
        }

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "emb_layer.weight" (V, D), float32.
        """
        return {"emb_layer.weight": self.weight}

    def save(self, folder: Path) -> None:
        """Write the word vectors, the config and the tokenizer into a folder.

        Args:
            folder: An existing folder for this module.
        """
        super().save(folder)
        self.tokenizer.save(folder)


class BoW(_WordModule):
    """Set "sentence_embedding" (B, V) to the weights of the words in each text, such as for tf-idf.

    Args:
        vocab: The words; one that is there twice counts once.
        word_weights: Weights by word, or by word in lower case. Default: none.
        unknown_word_weight: The weight of words that have none. Default: 1.
        cumulative_term_frequency: Whether a word counts as often as it occurs. Default: True.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.bow.BoW"
    save_in_root: ClassVar[bool] = False

    def __init__(
        self,
        vocab: Sequence[str],
        word_weights: Mapping[str, float] | None = None,
        unknown_word_weight: float = 1,
        cumulative_term_frequency: bool = True,
    ) -> None:
        self.vocab, self.word_weights = list(dict.fromkeys(vocab)), dict(word_weights or {})
        self.unknown_word_weight, self.cumulative_term_frequency = unknown_word_weight, cumulative_term_frequency
        self.tokenizer = WhitespaceTokenizer(self.vocab)
        self.weight = _weights_of(self.vocab, self.word_weights, unknown_word_weight)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        with config_errors(folder / "config.json"):
            return cls(**_checked(config))

    def __call__(self, features: Features) -> Features:
        ids, mask = features.batch.ids, features.mask.astype(mx.float32)
        rows = mx.broadcast_to(mx.arange(ids.shape[0])[:, None], ids.shape)
        counts = mx.zeros((ids.shape[0], len(self.vocab)))
        counts = (
            counts.at[rows, ids].add(mask) if self.cumulative_term_frequency else counts.at[rows, ids].maximum(mask)
        )
        return features.with_array(SENTENCE_EMBEDDING, counts * self.weight)

    def get_embedding_dimension(self) -> int | None:
        """Return the vocabulary size V.

        Returns:
            The number of words.
        """
        return len(self.vocab)

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            vocab, word_weights, unknown_word_weight and cumulative_term_frequency.
        """
        return {
            "vocab": self.vocab,
            "word_weights": self.word_weights,
            "unknown_word_weight": self.unknown_word_weight,
            "cumulative_term_frequency": self.cumulative_term_frequency,
        }


class WordWeights(Module):
    """Multiply "token_embeddings" by a weight for each token, and set "token_weights_sum" (B,), which means divide by.

    Args:
        vocab: The tokens, in the order of their ids.
        word_weights: Weights by token, or by token in lower case.
        unknown_word_weight: The weight of tokens that have none. Default: 1.
    """

    reference: ClassVar[str] = "sentence_transformers.sentence_transformer.modules.word_weights.WordWeights"

    def __init__(self, vocab: Sequence[str], word_weights: Mapping[str, float], unknown_word_weight: float = 1) -> None:
        self.vocab, self.word_weights, self.unknown_word_weight = list(vocab), dict(word_weights), unknown_word_weight
        self.weight = _weights_of(self.vocab, self.word_weights, unknown_word_weight)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the module from its folder; the weights are those of config.json, as in sentence-transformers.

        Args:
            folder: The module's folder, with a config.json.

        Returns:
            The module.
        """
        config = read_module_config(folder)
        with config_errors(folder / "config.json"):
            return cls(**_checked(config))

    def __call__(self, features: Features) -> Features:
        ids = features.batch.ids
        # MLX would read beyond the weights.
        if (highest := int(np.array(ids).max())) >= len(self.vocab):
            raise TokenRangeError(
                f"WordWeights has weights for {len(self.vocab)} tokens, and a text has the token {highest}. "
                "Check that the module belongs to the model."
            )
        weights = self.weight[ids] * features.mask.astype(mx.float32)
        weighted = features[TOKEN_EMBEDDINGS] * weights[:, :, None]
        return features.with_array(TOKEN_EMBEDDINGS, weighted).with_array(TOKEN_WEIGHTS_SUM, weights.sum(axis=1))

    def get_config_dict(self) -> dict[str, Any]:
        """Return the content of config.json in the module's folder.

        Returns:
            vocab, word_weights and unknown_word_weight.
        """
        return {
            "vocab": self.vocab,
            "word_weights": self.word_weights,
            "unknown_word_weight": self.unknown_word_weight,
        }

    def arrays(self) -> dict[str, mx.array]:
        """Return the weights of the module.

        Returns:
            "emb_layer.weight" (V, 1), float32.
        """
        return {"emb_layer.weight": self.weight[:, None]}


def _checked(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a module's config; TypeError if its words or weights are of another form."""
    vocab, weights = config["vocab"], config.get("word_weights", {})
    if not isinstance(vocab, list) or not vocab or not all(isinstance(word, str) for word in vocab):
        raise TypeError("vocab is no list of words")
    if not isinstance(weights, dict):
        raise TypeError("word_weights is no dict of weights by word")
    return config


def _weights_of(vocab: Sequence[str], weights: Mapping[str, float], unknown: float) -> mx.array:
    """Return the weight of each word, (V,), float32."""
    found = [weights.get(word, weights.get(word.lower(), unknown)) for word in vocab]
    with np.errstate(over="ignore"):
        weight = np.array(found, np.float32)
    # torch takes no integers beyond int64.
    if not np.isfinite(weight).all() or any(isinstance(one, int) and abs(one) >= 2**63 for one in found):
        raise ConfigError("a word has a weight that float32 or int64 does not hold. Take the original config.json.")
    return mx.array(weight)
