"""LED (Beltagy et al., arXiv 2004.05150); reference: transformers/models/led/modeling_led.py.

Differs from BART: the encoder has Longformer's sliding-window attention, with global attention of the tokens in
`global_attention_mask`; encoder and decoder have position tables of different lengths, without unused rows.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

from mlx_hf_bridge.architecture.config_checks import attention_windows
from mlx_hf_bridge.architecture.family import QUESTION_ANSWERING
from mlx_hf_bridge.architecture.heads import SPAN_HEAD
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.architecture.seq2seq import shift_right
from mlx_hf_bridge.layers.decoder import Decoder, EncoderDecoder
from mlx_hf_bridge.layers.embeddings import PositionsAndNorm, SharedEmbeddings
from mlx_hf_bridge.layers.global_attention import GLOBAL_ATTENTION_MASK, LocalGlobalAttention, make_global_mask
from mlx_hf_bridge.models import bart, bert


@dataclass(frozen=True, kw_only=True)
class LEDConfig(bart.BartConfig):
    """LED's keys: attention windows, and the lengths of the two position tables."""

    # The decoder reads the same tokens, so the shorter of the two tables is the limit.
    max_position_embeddings: int = 0
    max_encoder_position_embeddings: int = 16384
    max_decoder_position_embeddings: int = 1024
    attention_window: int | Sequence[int] = field()

    default_labels: ClassVar[int] = 2

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json, with the limit that follows from both position tables."""
        keys = ("max_encoder_position_embeddings", "max_decoder_position_embeddings")
        given = [raw.get(key, getattr(cls, key)) for key in keys]
        limit = min((one for one in given if type(one) is int), default=None)
        return super().from_json({**raw, "max_position_embeddings": limit})

    def __post_init__(self) -> None:
        super().__post_init__()
        attention_windows(self.attention_window, self.num_hidden_layers)

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The global attention mask, with the values 0 and 1."""
        return {GLOBAL_ATTENTION_MASK: ModelInput(2)}


def encoder(config: LEDConfig) -> EncoderDecoder:
    """Return encoder and decoder."""
    width, heads = config.hidden_size, config.num_attention_heads
    windows = attention_windows(config.attention_window, config.num_hidden_layers)
    places = config.max_encoder_position_embeddings
    return EncoderDecoder(
        SharedEmbeddings(config.vocab_size, width, _positions(config, places), config.token_scale),
        [bert.post_norm_layer(config, LocalGlobalAttention(width, heads, window // 2)) for window in windows],
        Decoder(
            _positions(config, config.max_decoder_position_embeddings),
            [bart.decoder_layer(config) for _ in range(config.decoder_layers)],
            None,
        ),
        partial(shift_right, config),
        layer_context=make_global_mask,
    )


def _positions(config: LEDConfig, rows: int) -> PositionsAndNorm:
    return PositionsAndNorm(rows, config.hidden_size, config.layer_norm_eps, 0)


_ATTENTION = "encoder.layers.{i}.self_attn"
_SELF = f"{_ATTENTION}.longformer_self_attn"
NAMES = {
    **{hf: path for hf, path in bart.NAMES.items() if not hf.startswith(f"{_ATTENTION}.")},
    f"{_SELF}.query": "layers.{i}.attention.qkv#0",
    f"{_SELF}.key": "layers.{i}.attention.qkv#1",
    f"{_SELF}.value": "layers.{i}.attention.qkv#2",
    f"{_SELF}.query_global": "layers.{i}.attention.global_query",
    f"{_SELF}.key_global": "layers.{i}.attention.global_kv#0",
    f"{_SELF}.value_global": "layers.{i}.attention.global_kv#1",
    f"{_ATTENTION}.output": "layers.{i}.attention.out",
}

FAMILY = dataclasses.replace(
    bart.FAMILY,
    model_type="led",
    config=LEDConfig,
    encoder=encoder,
    names=NAMES,
    prefix="led",
    hf_prefix="LED",
    tokenizer="LEDTokenizer",
    heads={QUESTION_ANSWERING: SPAN_HEAD},
    # A classifier that transformers had before version 5.
    other_heads=("classification_head",),
)
