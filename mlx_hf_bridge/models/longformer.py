"""Longformer (Beltagy et al., arXiv 2004.05150); reference: transformers/models/longformer/modeling_longformer.py.

Differs from RoBERTa: sliding-window attention, plus global attention of the tokens in `global_attention_mask`. Three
heads set it where the caller does not: sequence classification for the first token, question answering for the
question, multiple choice for the choice.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.architecture.config_checks import attention_windows
from mlx_hf_bridge.architecture.family import MULTIPLE_CHOICE, QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.global_attention import GLOBAL_ATTENTION_MASK, LocalGlobalAttention, make_global_mask
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert, roberta

# Separators of a pair of texts as RoBERTa's tokenizer joins them: <s> one </s></s> other </s>.
_SEPARATORS = 3


@dataclass(frozen=True, kw_only=True)
class LongformerConfig(OffsetPositionsConfig):
    """Longformer's keys: attention windows and the separator's token id."""

    attention_window: int | Sequence[int] = field()
    sep_token_id: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        attention_windows(self.attention_window, self.num_hidden_layers)

    @property
    def windows(self) -> tuple[int, ...]:
        """Attention window of each layer, half of it on each side."""
        return attention_windows(self.attention_window, self.num_hidden_layers)

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The global attention mask, with the values 0 and 1."""
        return {GLOBAL_ATTENTION_MASK: ModelInput(2)}


def encoder(config: LongformerConfig) -> Encoder:
    """Return the encoder."""
    width, heads = config.hidden_size, config.num_attention_heads
    return Encoder(
        bert.embeddings(config, pad_token_id=config.padding_idx),
        [bert.post_norm_layer(config, LocalGlobalAttention(width, heads, window // 2)) for window in config.windows],
        layer_context=make_global_mask,
    )


def first_token(config: LongformerConfig, batch: TokenBatch) -> mx.array:
    """Return the mask (B, L) of each text's first token."""
    return mx.array(np.broadcast_to(np.arange(batch.ids.shape[1]) == 0, batch.ids.shape))


def before_separator(config: LongformerConfig, batch: TokenBatch) -> mx.array:
    """Return the mask (B, L) of the tokens before the first separator, i.e. the question."""
    return mx.array(np.arange(batch.ids.shape[1])[None] < first_separators(config, batch))


def after_separators(config: LongformerConfig, batch: TokenBatch) -> mx.array:
    """Return the mask (B, L) of the tokens after the second separator, i.e. the choice."""
    return mx.array(np.arange(batch.ids.shape[1])[None] > first_separators(config, batch) + 1)


def first_separators(config: LongformerConfig, batch: TokenBatch) -> np.ndarray:
    """Return the position of each text's first separator (B, 1); InputError for a text without three."""
    found = np.array(batch.ids) == config.sep_token_id
    if wrong := [int(count) for count in found.sum(axis=1) if count != _SEPARATORS]:
        raise InputError(
            f"a text has {wrong[0]} separators (id {config.sep_token_id}), expected {_SEPARATORS}, as the tokenizer "
            f"joins pairs; the tokens with global attention are found by them. Pass pairs of texts, or "
            f"{GLOBAL_ATTENTION_MASK}."
        )
    return np.asarray(found.argmax(axis=1))[:, None]


def with_global_attention(
    chosen: Callable[[LongformerConfig, TokenBatch], mx.array], from_ids: bool
) -> Callable[[LongformerConfig, TokenBatch], TokenBatch]:
    """Return a `prepare_batch` that adds a global attention mask where the caller passed none.

    Args:
        chosen: Function of config and batch that returns the mask (B, L).
        from_ids: Whether `chosen` reads token ids, so that nothing is added to a batch of inputs_embeds.

    Returns:
        A function of config and batch.
    """

    def prepare_batch(config: LongformerConfig, batch: TokenBatch) -> TokenBatch:
        if GLOBAL_ATTENTION_MASK in batch.extra_inputs or (from_ids and batch.inputs_embeds is not None):
            return batch
        return dataclasses.replace(
            batch, extra_inputs={**batch.extra_inputs, GLOBAL_ATTENTION_MASK: chosen(config, batch)}
        )

    return prepare_batch


_PREPARE_BATCH = {
    SEQUENCE_CLASSIFICATION: with_global_attention(first_token, from_ids=False),
    QUESTION_ANSWERING: with_global_attention(before_separator, from_ids=True),
    MULTIPLE_CHOICE: with_global_attention(after_separators, from_ids=True),
}
_SELF = "encoder.layer.{i}.attention.self"

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="longformer",
    config=LongformerConfig,
    encoder=encoder,
    names={
        **roberta.FAMILY.names,
        f"{_SELF}.query_global": "layers.{i}.attention.global_query",
        f"{_SELF}.key_global": "layers.{i}.attention.global_kv#0",
        f"{_SELF}.value_global": "layers.{i}.attention.global_kv#1",
    },
    prefix="longformer",
    hf_prefix="Longformer",
    heads={
        task: dataclasses.replace(head, prepare_batch=_PREPARE_BATCH.get(task))
        for task, head in roberta.FAMILY.heads.items()
    },
)
