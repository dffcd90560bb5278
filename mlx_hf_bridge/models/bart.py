"""BART (Lewis et al., arXiv 1910.13461); reference: transformers/models/bart/modeling_bart.py.

Differs from BERT: a decoder behind the encoder reads the same tokens, shifted to the right, and the outputs are the
decoder's; the position table starts with two unused rows; the classifier reads the last end token, and there is no
pooler.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION, Family
from mlx_hf_bridge.architecture.heads import SPAN_HEAD
from mlx_hf_bridge.architecture.seq2seq import END_TOKEN_HEAD, check_start_token, shift_right
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.decoder import CrossAttention, Decoder, DecoderLayer, EncoderDecoder
from mlx_hf_bridge.layers.embeddings import PositionsAndNorm, SharedEmbeddings
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.models import bert

# Rows of the position tables that no position reads (BartLearnedPositionalEmbedding).
_POSITION_OFFSET = 2
Shift = Callable[[Any, mx.array], mx.array]


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(EncoderConfig):
    """The keys of BART and its kin: the decoder's sizes, the factor of token embeddings, and the end token."""

    type_vocab_size: int = field(default=0, init=False)
    # torch's default; no key of config.json changes it.
    layer_norm_eps: float = field(default=1e-5, init=False)
    pad_token_id: int | None = 1
    eos_token_id: int = 2
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    scale_embedding: bool = False

    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
        "hidden_act": "activation_function",
    }
    minimum_values: ClassVar = {"eos_token_id": 0}
    # is_causal=false makes transformers' decoder attend to later tokens (masking_utils.py).
    unsupported_values: ClassVar = {"is_decoder": bool, "is_causal": lambda value: value is False}
    # Number of labels of a config.json that says nothing about them.
    default_labels: ClassVar[int] = 2

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json; general names of a key win over BART's own, as in transformers."""
        general = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        own = {cls.attribute_map[name]: raw[name] for name in general if raw.get(name) is not None}
        said = any(raw.get(key) is not None for key in ("id2label", "num_labels", "_num_labels"))
        return super().from_json({**raw, **own, **({} if said else {"num_labels": cls.default_labels})})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_size % self.decoder_attention_heads:
            raise ConfigError(
                f"config.json has d_model={self.hidden_size} and decoder_attention_heads="
                f"{self.decoder_attention_heads}; the first must be a multiple of the second. "
                "Take the file of the original checkpoint."
            )

    @property
    def token_scale(self) -> float:
        """Factor of the token embeddings."""
        return self.hidden_size**0.5 if self.scale_embedding else 1.0


@dataclass(frozen=True, kw_only=True)
class BartConfig(Seq2SeqConfig):
    """BART's own key: the token that the decoder starts with."""

    decoder_start_token_id: int = 2

    minimum_values: ClassVar = {**Seq2SeqConfig.minimum_values, "decoder_start_token_id": 0}
    default_labels: ClassVar[int] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_start_token(self, self.decoder_start_token_id)


def shift_last_to_front(config: Seq2SeqConfig, ids: mx.array) -> mx.array:
    """Return the decoder's ids where the start token is the text's last one (a language id in mBART), (B, L)."""
    last = (ids != config.pad_token_id).sum(axis=1, keepdims=True) - 1
    # A row of padding has none; transformers cannot compute it.
    start = mx.take_along_axis(ids, mx.maximum(last, 0).astype(mx.int32), axis=1)
    return mx.concatenate([start, ids[:, :-1]], axis=1)


def encoder(config: Seq2SeqConfig, shift: Shift = shift_right, norm_first: bool = False) -> EncoderDecoder:
    """Return encoder and decoder.

    Args:
        config: The model's config.
        shift: Makes the decoder's ids of the encoder's.
        norm_first: Whether norms come before the blocks, and one after each stack (mBART).

    Returns:
        The modules.
    """
    layer = bert.pre_norm_layer if norm_first else bert.post_norm_layer
    final_norms = (bert.layer_norm(config), bert.layer_norm(config)) if norm_first else (None, None)
    layers = [decoder_layer(config, norm_first) for _ in range(config.decoder_layers)]
    return EncoderDecoder(
        SharedEmbeddings(config.vocab_size, config.hidden_size, _positions(config), config.token_scale),
        [layer(config) for _ in range(config.num_hidden_layers)],
        Decoder(_positions(config), layers, final_norms[1]),
        partial(shift, config),
        final_norms[0],
    )


def _positions(config: Seq2SeqConfig) -> PositionsAndNorm:
    return PositionsAndNorm(config.max_position_embeddings, config.hidden_size, config.layer_norm_eps, _POSITION_OFFSET)


def decoder_layer(config: Seq2SeqConfig, norm_first: bool = False) -> DecoderLayer:
    """Return one layer of the decoder.

    Args:
        config: The model's config.
        norm_first: Whether norms come before the blocks.

    Returns:
        The layer.
    """
    width, heads = config.hidden_size, config.decoder_attention_heads
    return DecoderLayer(
        Attention(width, heads),
        CrossAttention(width, heads),
        FeedForward(width, config.decoder_ffn_dim, activation_for(config.hidden_act)),
        lambda: LayerNorm(width, eps=config.layer_norm_eps),
        norm_first,
    )


def _layer_names(stack: str, path: str) -> dict[str, str]:
    """Return the names that a layer of the encoder and one of the decoder have in common."""
    return {
        f"{stack}.layers.{{i}}.self_attn.q_proj": f"{path}layers.{{i}}.attention.qkv#0",
        f"{stack}.layers.{{i}}.self_attn.k_proj": f"{path}layers.{{i}}.attention.qkv#1",
        f"{stack}.layers.{{i}}.self_attn.v_proj": f"{path}layers.{{i}}.attention.qkv#2",
        f"{stack}.layers.{{i}}.self_attn.out_proj": f"{path}layers.{{i}}.attention.out",
        f"{stack}.layers.{{i}}.self_attn_layer_norm": f"{path}layers.{{i}}.attention_norm",
        f"{stack}.layers.{{i}}.fc1": f"{path}layers.{{i}}.feed_forward.up",
        f"{stack}.layers.{{i}}.fc2": f"{path}layers.{{i}}.feed_forward.down",
        f"{stack}.layers.{{i}}.final_layer_norm": f"{path}layers.{{i}}.feed_forward_norm",
    }


_CROSS = "decoder.layers.{i}.encoder_attn"
NAMES = {
    "shared": "embeddings.word",
    "encoder.embed_positions": "embeddings.positions.position",
    "encoder.layernorm_embedding": "embeddings.positions.norm",
    **_layer_names("encoder", ""),
    "decoder.embed_positions": "decoder.positions.position",
    "decoder.layernorm_embedding": "decoder.positions.norm",
    **_layer_names("decoder", "decoder."),
    f"{_CROSS}.q_proj": "decoder.layers.{i}.cross_attention.query",
    f"{_CROSS}.k_proj": "decoder.layers.{i}.cross_attention.kv#0",
    f"{_CROSS}.v_proj": "decoder.layers.{i}.cross_attention.kv#1",
    f"{_CROSS}.out_proj": "decoder.layers.{i}.cross_attention.out",
    f"{_CROSS}_layer_norm": "decoder.layers.{i}.cross_attention_norm",
}

FAMILY = Family(
    model_type="bart",
    config=BartConfig,
    encoder=encoder,
    names=NAMES,
    prefix="model",
    hf_prefix="Bart",
    tokenizer="RobertaTokenizer",
    heads={
        SEQUENCE_CLASSIFICATION: END_TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
    },
    copied_modules={"encoder.embed_tokens": "shared", "decoder.embed_tokens": "shared"},
    # Written by transformers before version 4.
    ignored_suffixes=("encoder.version", "decoder.version", "final_logits_bias"),
    ignored_prefixes=("lm_head",),
    uses_token_type_ids=False,
    accepts_inputs_embeds=False,
    inputs_note="Its decoder reads input_ids, shifted to the right; for other inputs use transformers on torch. ",
)
