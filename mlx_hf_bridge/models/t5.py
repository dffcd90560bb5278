"""T5 (Raffel et al., arXiv 1910.10683); reference: transformers/models/t5/modeling_t5.py.

Differs from BERT: one relative position bias that every layer adds to its attention scores instead of a position table;
scores are not divided by sqrt(K); RMSNorm before each block and after the last layer; no biases; in v1.1 a gated
feed-forward block. The bare model is the encoder; sequence classification and question answering read the decoder
behind it, which gets the same tokens, shifted to the right.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import (
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD
from mlx_hf_bridge.architecture.seq2seq import END_TOKEN_HEAD, check_start_token, require_end_token, shift_right
from mlx_hf_bridge.errors import ConfigError, InputError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.decoder import CrossAttention, Decoder, DecoderLayer, EncoderDecoder
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward, GatedFeedForward
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.relative_positions import RelativePositionBias
from mlx_hf_bridge.layers.token_batch import TokenBatch


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderConfig):
    """T5's keys: feed-forward block and relative position buckets; no positions or token types."""

    max_position_embeddings: int = field(default=NO_POSITIONS, init=False)
    type_vocab_size: int = field(default=0, init=False)
    tie_word_embeddings: bool = field(default=True, init=False)
    layer_norm_eps: float = 1e-6
    head_dim: int = field()
    hidden_act: str = "relu"
    is_gated: bool = False
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = None
    num_decoder_layers: int | None = None

    reads_head_dim: ClassVar[bool] = True
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "head_dim": "d_kv",
        "layer_norm_eps": "layer_norm_epsilon",
    }
    minimum_values: ClassVar = {"decoder_start_token_id": 0, "num_decoder_layers": 0}
    unsupported_values: ClassVar = {"is_decoder": bool}
    default_feed_forward: ClassVar[str] = "relu"

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, they are relative."""
        return False

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json, with `feed_forward_proj` ("relu", "gated-gelu") split in two.

        "gated-gelu" means the tanh approximation of gelu. `dense_act_fn` and `is_gated_act` of the file win over what
        `feed_forward_proj` says, as in transformers.
        """
        given = raw.get("feed_forward_proj", cls.default_feed_forward)
        gate, _, activation = str(given).rpartition("-")
        if gate not in ("", "gated"):
            raise ConfigError(
                f"config.json has feed_forward_proj={given!r}, expected an activation, alone or after 'gated-'. "
                "Take the file of the original checkpoint."
            )
        activation = "gelu_new" if given == "gated-gelu" else activation
        split = {"hidden_act": raw.get("dense_act_fn", activation), "is_gated": raw.get("is_gated_act", bool(gate))}
        return super().from_json({**raw, **split})


def position_bias(config: T5Config, causal: bool = False) -> RelativePositionBias:
    """Return a relative position bias, for the decoder if it is causal."""
    buckets, heads = config.relative_attention_num_buckets, config.num_attention_heads
    return RelativePositionBias(buckets, heads, buckets, config.relative_attention_max_distance, causal)


def layer(config: T5Config, own_bias: RelativePositionBias | None = None) -> PreNormLayer:
    """Return one layer; `own_bias` is a relative position bias that only this layer has."""
    norms = [RMSNorm(config.hidden_size, config.layer_norm_eps) for _ in range(2)]
    attention = Attention(*_attention_sizes(config))
    return PreNormLayer(attention, norms[0], feed_forward(config), norms[1], own_bias)


def decoder_layer(config: T5Config, own_bias: RelativePositionBias | None = None) -> DecoderLayer:
    """Return one layer of the decoder."""
    norm = partial(RMSNorm, config.hidden_size, config.layer_norm_eps)
    sizes = _attention_sizes(config)
    attentions = Attention(*sizes), CrossAttention(*sizes)
    return DecoderLayer(*attentions, feed_forward(config), norm, norm_first=True, position_bias=own_bias)


def _attention_sizes(config: T5Config) -> tuple[int, int, int, bool, bool]:
    """Return the arguments of attention: no biases, and scores that are not scaled."""
    # T5 folds the division by sqrt(K) into the initialization of the queries.
    return config.hidden_size, config.num_attention_heads, config.head_dim, False, False


def feed_forward(config: T5Config) -> FeedForward | GatedFeedForward:
    """Return a feed-forward block."""
    block = GatedFeedForward if config.is_gated else FeedForward
    # transformers keeps these weights in float32 (_keep_in_fp32_modules), since their results exceed float16.
    return block(
        config.hidden_size,
        config.intermediate_size,
        activation_for(config.hidden_act),
        bias=False,
        exceeds_float16=True,
    )


def encoder(config: T5Config) -> Encoder:
    """Return the encoder, with one position bias for all layers."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        position_bias=position_bias(config),
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
    )


def encoder_decoder(config: T5Config, own_biases: bool = False) -> EncoderDecoder:
    """Return encoder and decoder, with one position bias for all layers of each.

    Args:
        config: The model's config.
        own_biases: Whether every layer has a position bias of its own instead (umT5).

    Returns:
        The modules.

    Raises:
        ConfigError: If config.json does not say which token the decoder starts with.
    """
    check_start_token(config, config.decoder_start_token_id)
    width, eps = config.hidden_size, config.layer_norm_eps
    count = config.num_hidden_layers if config.num_decoder_layers is None else config.num_decoder_layers

    def bias(causal: bool, in_layer: bool) -> RelativePositionBias | None:
        return position_bias(config, causal) if own_biases == in_layer else None

    layers = [decoder_layer(config, bias(True, True)) for _ in range(count)]
    return EncoderDecoder(
        TokenEmbeddings(config.vocab_size, width),
        [layer(config, bias(False, True)) for _ in range(config.num_hidden_layers)],
        Decoder(None, layers, RMSNorm(width, eps), bias(True, False)),
        partial(shift_right, config),
        RMSNorm(width, eps),
        position_bias=bias(False, False),
    )


def require_ids(config: T5Config, batch: TokenBatch) -> TokenBatch:
    """Return a batch of ids as it is; InputError for inputs_embeds, which the decoder cannot read."""
    if batch.inputs_embeds is not None:
        raise InputError("got inputs_embeds, and this head's decoder reads token ids. Pass input_ids.")
    return batch


def require_ids_and_end_token(config: T5Config, batch: TokenBatch) -> TokenBatch:
    """Return a batch as it is; InputError if it has no ids, or a text no end token."""
    return require_end_token(config, require_ids(config, batch))


_ATTENTION, _FEED_FORWARD = "encoder.block.{i}.layer.0", "encoder.block.{i}.layer.1"
LAYER_NAMES = {
    "shared": "embeddings.word",
    f"{_ATTENTION}.SelfAttention.q": "layers.{i}.attention.qkv#0",
    f"{_ATTENTION}.SelfAttention.k": "layers.{i}.attention.qkv#1",
    f"{_ATTENTION}.SelfAttention.v": "layers.{i}.attention.qkv#2",
    f"{_ATTENTION}.SelfAttention.o": "layers.{i}.attention.out",
    f"{_ATTENTION}.layer_norm": "layers.{i}.attention_norm",
    f"{_FEED_FORWARD}.DenseReluDense.wi": "layers.{i}.feed_forward.up",
    f"{_FEED_FORWARD}.DenseReluDense.wi_0": "layers.{i}.feed_forward.gate_up#0",
    f"{_FEED_FORWARD}.DenseReluDense.wi_1": "layers.{i}.feed_forward.gate_up#1",
    f"{_FEED_FORWARD}.DenseReluDense.wo": "layers.{i}.feed_forward.down",
    f"{_FEED_FORWARD}.layer_norm": "layers.{i}.feed_forward_norm",
    "encoder.final_layer_norm": "final_norm",
}
_SELF, _CROSS, _BLOCK = (f"decoder.block.{{i}}.layer.{number}" for number in range(3))
DECODER_NAMES = {
    f"{_SELF}.SelfAttention.q": "decoder.layers.{i}.attention.qkv#0",
    f"{_SELF}.SelfAttention.k": "decoder.layers.{i}.attention.qkv#1",
    f"{_SELF}.SelfAttention.v": "decoder.layers.{i}.attention.qkv#2",
    f"{_SELF}.SelfAttention.o": "decoder.layers.{i}.attention.out",
    f"{_SELF}.layer_norm": "decoder.layers.{i}.attention_norm",
    f"{_CROSS}.EncDecAttention.q": "decoder.layers.{i}.cross_attention.query",
    f"{_CROSS}.EncDecAttention.k": "decoder.layers.{i}.cross_attention.kv#0",
    f"{_CROSS}.EncDecAttention.v": "decoder.layers.{i}.cross_attention.kv#1",
    f"{_CROSS}.EncDecAttention.o": "decoder.layers.{i}.cross_attention.out",
    f"{_CROSS}.layer_norm": "decoder.layers.{i}.cross_attention_norm",
    f"{_BLOCK}.DenseReluDense.wi": "decoder.layers.{i}.feed_forward.up",
    f"{_BLOCK}.DenseReluDense.wi_0": "decoder.layers.{i}.feed_forward.gate_up#0",
    f"{_BLOCK}.DenseReluDense.wi_1": "decoder.layers.{i}.feed_forward.gate_up#1",
    f"{_BLOCK}.DenseReluDense.wo": "decoder.layers.{i}.feed_forward.down",
    f"{_BLOCK}.layer_norm": "decoder.layers.{i}.feed_forward_norm",
    "decoder.final_layer_norm": "decoder.final_norm",
}
BIAS = "layer.0.SelfAttention.relative_attention_bias"


def heads(build: Callable[[T5Config], EncoderDecoder], decoder_names: Mapping[str, str]) -> dict[str, Head]:
    """Return the heads, of which two read a decoder.

    Args:
        build: Returns encoder and decoder.
        decoder_names: The decoder's modules.

    Returns:
        Task -> head.
    """
    decoder: dict[str, Any] = {"encoder": build, "encoder_names": decoder_names}
    return {
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        SEQUENCE_CLASSIFICATION: replace(END_TOKEN_HEAD, prepare_batch=require_ids_and_end_token, **decoder),
        QUESTION_ANSWERING: replace(SPAN_HEAD, prepare_batch=require_ids, **decoder),
    }


FAMILY = Family(
    model_type="t5",
    config=T5Config,
    encoder=encoder,
    names={**LAYER_NAMES, f"encoder.block.0.{BIAS}": "position_bias.table"},
    prefix="transformer",
    hf_prefix="T5",
    tokenizer="T5Tokenizer",
    heads=heads(encoder_decoder, {**DECODER_NAMES, f"decoder.block.0.{BIAS}": "decoder.position_bias.table"}),
    copied_modules={"encoder.embed_tokens": "shared", "decoder.embed_tokens": "shared"},
    uses_token_type_ids=False,
    ignored_prefixes=("decoder", "lm_head"),
    hf_base_suffix="EncoderModel",
)
