"""Scores of labels for the words or spans of texts, computed in batches of similar length.

Axes: B texts, W words, S tokens of a word, K widths of a span, C labels, D hidden size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.gliner import GLiNERConfig
from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.gliner.loading import LoadedGLiNER
from mlx_hf_bridge.gliner.words import WordTokens
from mlx_hf_bridge.inference.batching import BatchPipeline, pad_tokens, run_batches
from mlx_hf_bridge.inference.pooling import pool
from mlx_hf_bridge.inference.tokenizer import Tokens
from mlx_hf_bridge.layers.gliner import (
    LABEL_EMBEDDINGS,
    LABEL_MASK,
    LABEL_TOKENS,
    WORD_COUNTS,
    WORD_TOKENS,
)
from mlx_hf_bridge.layers.token_batch import TokenBatch


def embed_labels(model: LoadedGLiNER, labels: Sequence[str], batch_size: int) -> np.ndarray:
    """Embed labels by their own encoder: the mean of its hidden states, in the width of the head.

    Args:
        model: A model with an encoder of labels.
        labels: The labels.
        batch_size: Size of batches, as for run_batches.

    Returns:
        float32 array of shape (C, D).
    """
    part = model.labels
    assert part is not None
    head: Any = model.text.loaded.model.head
    encoder, tokenizer = part.loaded, part.tokenizer
    tokens = [replace(one, token_type_ids=None) for one in tokenizer.encode(labels, tokenizer.model_max_length)]
    _check_lengths(tokens, encoder.config.max_length, "a label")

    def compute(batch: TokenBatch) -> mx.array:
        embedded: mx.array = head.embed_labels(pool(encoder.model(batch).hidden, batch, ("mean",)))
        return embedded

    pipeline = BatchPipeline(
        lambda batch: pad_tokens(encoder.config, batch, tokenizer.pad_token_id),
        compute,
        independent_length=encoder.independent_length,
    )
    return np.array(run_batches(tokens, pipeline, batch_size, show_progress=False)).reshape(len(tokens), -1)


def score(
    model: LoadedGLiNER,
    tokens: Sequence[WordTokens],
    prompts: Sequence[Sequence[str]],
    embeddings: Mapping[str, np.ndarray] | None,
    batch_size: int,
    show_progress: bool,
) -> list[np.ndarray]:
    """Compute the logits of texts.

    Args:
        model: The model.
        tokens: The tokens of each text.
        prompts: The labels of each text.
        embeddings: The embedding of each label; None for a model that reads labels before the text.
        batch_size: Size of batches, as for run_batches.
        show_progress: Whether to show a progress bar.

    Returns:
        Logits of each text at its words and labels: (W, K, C), or (W, C, 3) for a model that scores words. There are
        fewer labels where truncation has removed some.
    """
    table = None
    if embeddings is not None:
        rows = {prompt: row for row, prompt in enumerate(embeddings)}
        table = np.stack(list(embeddings.values()))
        tokens = [with_labels(one, [rows[prompt] for prompt in own]) for one, own in zip(tokens, prompts, strict=True)]
    check_text_lengths(model, tokens)
    found = run_batches(tokens, score_pipeline(model, table), batch_size, show_progress)
    return [without_padding(logits, one, model.config) for logits, one in zip(found, tokens, strict=True)]


def with_labels(tokens: WordTokens, rows: Sequence[int]) -> WordTokens:
    """Return the tokens of a text with the rows of its labels in the table of their embeddings."""
    return replace(tokens, labels=np.array(rows, np.int32))


def check_text_lengths(model: LoadedGLiNER, tokens: Sequence[Tokens]) -> None:
    """Check that texts with their labels have no more tokens than the model has positions.

    Args:
        model: The model.
        tokens: The tokens of each text.

    Raises:
        TokenRangeError: If one has more.
    """
    _check_lengths(tokens, model.text.loaded.config.max_length, "a text with its labels")


def score_pipeline(model: LoadedGLiNER, table: np.ndarray | None = None) -> BatchPipeline:
    """Return what is computed of a batch of texts: logits, padded to the most words and labels of the batch.

    Args:
        model: The model.
        table: The embeddings of labels, (C, D); None for a model that reads labels before the text.

    Returns:
        The steps.
    """
    loaded, tokenizer = model.text.loaded, model.text.tokenizer

    def prepare(batch: list[Tokens]) -> TokenBatch:
        padded = pad_tokens(loaded.config, batch, tokenizer.pad_token_id)
        own = [one for one in batch if isinstance(one, WordTokens)]
        return replace(padded, extra_inputs=_extra_inputs(own, table))

    return BatchPipeline(prepare, _logits(model), independent_length=loaded.independent_length)


def _logits(model: LoadedGLiNER) -> Callable[[TokenBatch], mx.array]:
    return lambda batch: model.text.loaded.model(batch, outputs_only=True).logits


def _extra_inputs(tokens: Sequence[WordTokens], table: np.ndarray | None) -> dict[str, mx.array]:
    """Return what the head reads besides hidden states, padded to the longest of each."""
    words = _padded([one.word_tokens for one in tokens], -1)
    found = {WORD_TOKENS: words, WORD_COUNTS: np.array([len(one.word_tokens) for one in tokens], np.int32)}
    if table is None:
        found[LABEL_TOKENS] = _padded([one.label_tokens for one in tokens], 0)
    else:
        labels = _padded([one.labels for one in tokens], -1)
        found[LABEL_MASK] = labels >= 0
        found[LABEL_EMBEDDINGS] = np.where(found[LABEL_MASK][:, :, None], table[labels], np.float32(0))
    return {name: mx.array(array) for name, array in found.items()}


def _padded(arrays: Sequence[np.ndarray], value: int) -> np.ndarray:
    """Return arrays of one rank in one array, with an axis for them in front."""
    shape = [max(1, *sizes) for sizes in zip(*(array.shape for array in arrays), strict=True)]
    result = np.full((len(arrays), *shape), value, np.int32)
    for row, array in enumerate(arrays):
        result[row][tuple(slice(0, size) for size in array.shape)] = array
    return result


def without_padding(logits: np.ndarray, tokens: WordTokens, config: GLiNERConfig) -> np.ndarray:
    """Return a text's own part of padded logits.

    Args:
        logits: The row of a text in what `score_pipeline` computes.
        tokens: The tokens of the text.
        config: The model's config.

    Returns:
        (W, K, C), or (W, C, 3) for a model that scores words.
    """
    labels = max(len(tokens.label_tokens), len(tokens.labels))
    words = logits[: len(tokens.word_tokens)]
    return words[:, :labels] if config.is_token_level else words[:, :, :labels]


def _check_lengths(tokens: Sequence[Tokens], limit: int, what: str) -> None:
    longest = max((len(one) for one in tokens), default=0)
    if longest > limit:
        raise TokenRangeError(f"{what} has {longest} tokens, and the model takes at most {limit}. Split the text.")
