"""T5's encoder (Raffel et al., arXiv 1910.10683); reference: transformers/models/t5/modeling_t5.py.

Differs from BERT: one relative position bias that every layer adds to its attention scores instead of a position table;
scores are not divided by sqrt(K); RMSNorm before each block and after the last layer; no biases; in v1.1 a gated
feed-forward block.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from mlx_hf_bridge.architecture.config import NO_POSITIONS, EncoderConfig
from mlx_hf_bridge.architecture.family import TOKEN_CLASSIFICATION, Family
from mlx_hf_bridge.architecture.heads import TOKEN_HEAD
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward, GatedFeedForward
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.relative_positions import RelativePositionBias


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

    reads_head_dim: ClassVar[bool] = True
    attribute_map: ClassVar = {
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "head_dim": "d_kv",
        "layer_norm_eps": "layer_norm_epsilon",
    }
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


def position_bias(config: T5Config) -> RelativePositionBias:
    """Return a relative position bias."""
    buckets, heads = config.relative_attention_num_buckets, config.num_attention_heads
    return RelativePositionBias(buckets, heads, buckets, config.relative_attention_max_distance)


def layer(config: T5Config, own_bias: RelativePositionBias | None = None) -> PreNormLayer:
    """Return one layer; `own_bias` is a relative position bias that only this layer has."""
    width, eps = config.hidden_size, config.layer_norm_eps
    # T5 folds the division by sqrt(K) into the initialization of the queries, so scores are not scaled.
    attention = Attention(width, config.num_attention_heads, config.head_dim, bias=False, scaled=False)
    block = GatedFeedForward if config.is_gated else FeedForward
    # transformers keeps these weights in float32 (_keep_in_fp32_modules), since their results exceed float16.
    feed_forward = block(
        width, config.intermediate_size, activation_for(config.hidden_act), bias=False, exceeds_float16=True
    )
    return PreNormLayer(attention, RMSNorm(width, eps), feed_forward, RMSNorm(width, eps), own_bias)


def encoder(config: T5Config) -> Encoder:
    """Return the encoder, with one position bias for all layers."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        position_bias=position_bias(config),
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
    )


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

FAMILY = Family(
    model_type="t5",
    config=T5Config,
    encoder=encoder,
    names={**LAYER_NAMES, "encoder.block.0.layer.0.SelfAttention.relative_attention_bias": "position_bias.table"},
    prefix="transformer",
    hf_prefix="T5",
    tokenizer="T5Tokenizer",
    heads={TOKEN_CLASSIFICATION: TOKEN_HEAD},
    copied_modules={"encoder.embed_tokens": "shared"},
    uses_token_type_ids=False,
    ignored_prefixes=("decoder", "lm_head"),
    hf_base_suffix="EncoderModel",
)
