"""What classifiers behind a decoder share in all families: the decoder's ids, and the end token that they read."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Head
from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.transformed_heads import EndTokenClassifier


def shift_right(config: Any, ids: mx.array) -> mx.array:
    """Return the decoder's ids: the start token, then all ids but the last.

    Args:
        config: The model's config, with `decoder_start_token_id`.
        ids: Token ids of the encoder, (B, L).

    Returns:
        Array of shape (B, L).
    """
    start = mx.full((ids.shape[0], 1), config.decoder_start_token_id, ids.dtype)
    return mx.concatenate([start, ids[:, :-1]], axis=1)


def check_start_token(config: EncoderConfig, start: int | None) -> None:
    """Check that the decoder's start token is in the vocabulary.

    Args:
        config: The model's config.
        start: Its `decoder_start_token_id`.

    Raises:
        ConfigError: If it is missing or no token's id.
    """
    if start is None or start >= config.vocab_size:
        raise ConfigError(
            f"config.json has decoder_start_token_id={start}, expected an id below vocab_size={config.vocab_size}. "
            "Take the file of the original checkpoint."
        )


def require_end_token(config: Any, batch: TokenBatch) -> TokenBatch:
    """Return a batch as it is, once every text is known to have an end token.

    Args:
        config: The model's config, with `eos_token_id`.
        batch: The batch.

    Returns:
        The batch.

    Raises:
        InputError: If a text has no end token, as in transformers.
    """
    if not bool((np.array(batch.ids) == config.eos_token_id).any(axis=1).all()):
        raise InputError(
            f"a text has no end token (id {config.eos_token_id}), which the classifier reads. Tokenize with special "
            "tokens, and with the model's own tokenizer."
        )
    return batch


def require_equal_end_tokens(config: Any, ids: np.ndarray) -> None:
    """Check that the texts of one call have the same number of end tokens.

    Args:
        config: The model's config, with `eos_token_id`.
        ids: Token ids, (B, L).

    Raises:
        InputError: If they differ, as in transformers.
    """
    counts = np.unique((ids == config.eos_token_id).sum(axis=1))
    if len(counts) > 1:
        raise InputError(
            f"the texts have from {counts[0]} to {counts[-1]} end tokens (id {config.eos_token_id}), expected the same "
            "number in all texts of a call, as in transformers. Pass single texts and pairs in separate calls."
        )


# The sequence classifier of BART and T5, which reads the decoder's last end token.
END_TOKEN_HEAD = Head(
    build=lambda config: EndTokenClassifier(config.hidden_size, config.num_labels, config.eos_token_id),
    names={"classification_head.dense": "dense", "classification_head.out_proj": "out"},
    prepare_batch=require_end_token,
    check_call=require_equal_end_tokens,
)
