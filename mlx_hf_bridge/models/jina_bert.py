"""JinaBERT (Günther et al., arXiv 2310.19923), model_type "bert"; reference: the paper and its checkpoints' configs.

jina-embeddings-v2 and jina-reranker-v1. Differs from BERT: linear biases by distance (ALiBi) instead of positions, and
a gated feed-forward block. Checkpoints of code (jina-bert-v2-qk-post-norm) have norms of queries and keys and add a
layer's input twice around attention.
"""

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.remote_code import names_code_of
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.alibi import AlibiAttention, DoubleResidualLayer, LinearBias, alibi_slopes
from mlx_hf_bridge.layers.embeddings import NormalizedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward, GatedFeedForward
from mlx_hf_bridge.models import bert

_GATES = {"geglu": "gelu", "reglu": "relu"}
# The rerankers' own code halves the slopes that are filled in between those of the lower power of two. No JinaBERT but
# these two is so wide.
_RERANKER, _RERANKER_WIDTH = "jina-reranker-v1", 384
_EMBEDDERS_CODE = "jina-bert"


@dataclass(frozen=True)
class AlibiConfig(EncoderConfig):
    """Config of BERT variants with linear biases by distance, which have no position table."""

    unsupported_values: ClassVar = {
        key: test for key, test in EncoderConfig.unsupported_values.items() if key != "position_embedding_type"
    }

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, attention scores depend on distances."""
        return False

    @property
    def has_eager_attention(self) -> bool:
        """Whether a text that is all padding attends to all of it alike: yes, masks are added to the scores."""
        return True

    @property
    def slopes(self) -> list[float]:
        """The slope of each attention head."""
        return alibi_slopes(self.num_attention_heads)


@dataclass(frozen=True)
class JinaBertConfig(AlibiConfig):
    """The keys of JinaBERT's config.

    Attributes:
        feed_forward_type: "geglu", "reglu", or "original" for BERT's block.
        has_query_key_norms: Whether queries and keys are normalized; the names of the tensors tell.
        halves_added_slopes: Whether the slopes beyond a power of two are halved, as in jina-reranker-v1's code.
    """

    feed_forward_type: str = "original"
    has_query_key_norms: bool = False
    halves_added_slopes: bool = False

    unsupported_values: ClassVar = {
        **AlibiConfig.unsupported_values,
        "position_embedding_type": lambda value: value != "alibi",
    }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json."""
        own_code = raw.get("hidden_size") == _RERANKER_WIDTH and not names_code_of(raw, _EMBEDDERS_CODE)
        halves = bool(raw.get("auto_map")) and (names_code_of(raw, _RERANKER) or own_code)
        return super().from_json({"halves_added_slopes": halves, **raw})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feed_forward_type not in (*_GATES, "original"):
            raise ConfigError(
                f"config.json has feed_forward_type={self.feed_forward_type!r}; known are geglu, reglu, original. "
                "Take the file of the original checkpoint."
            )

    @property
    def slopes(self) -> list[float]:
        """The slope of each attention head."""
        slopes, power = super().slopes, 1 << (self.num_attention_heads.bit_length() - 1)
        return [*slopes[:power], *(slope / 2 if self.halves_added_slopes else slope for slope in slopes[power:])]


def keys_of_tensors(modules: Collection[str]) -> dict[str, Any]:
    """Return the config keys that tensor names tell: whether there are norms of queries and keys."""
    return {"has_query_key_norms": any(name.endswith("attention.self.layer_norm_q") for name in modules)}


def embeddings(config: EncoderConfig) -> NormalizedEmbeddings:
    """Return the embeddings: tokens and token types, then a norm."""
    return NormalizedEmbeddings(config.vocab_size, config.hidden_size, bert.layer_norm(config), config.type_vocab_size)


def feed_forward(config: JinaBertConfig) -> nn.Module:
    """Return the feed-forward block; the variant with query and key norms has its gate in the second half."""
    width, inner = config.hidden_size, config.intermediate_size
    if config.feed_forward_type == "original":
        return FeedForward(width, inner, activation_for(config.hidden_act))
    gate = activation_for(_GATES[config.feed_forward_type])
    return GatedFeedForward(width, inner, gate, down_bias=True, gate_last=config.has_query_key_norms)


def layer(config: JinaBertConfig) -> nn.Module:
    """Return one layer."""
    width, heads, eps = config.hidden_size, config.num_attention_heads, config.layer_norm_eps
    if not config.has_query_key_norms:
        return PostNormLayer(AlibiAttention(width, heads), feed_forward(config), width, eps)
    attention = AlibiAttention(width, heads, bert.layer_norm(config), bert.layer_norm(config))
    return DoubleResidualLayer(attention, feed_forward(config), width, eps)


def encoder(config: JinaBertConfig) -> Encoder:
    """Return the encoder."""
    layers = [layer(config) for _ in range(config.num_hidden_layers)]
    return Encoder(embeddings(config), layers, position_bias=LinearBias(config.slopes))


EMBEDDING_NAMES = {hf: path for hf, path in bert.EMBEDDING_NAMES.items() if path != "embeddings.position"}
GATED_NAMES = {
    "encoder.layer.{i}.mlp.gated_layers": "layers.{i}.feed_forward.gate_up",
    "encoder.layer.{i}.mlp.wo": "layers.{i}.feed_forward.down",
    "encoder.layer.{i}.mlp.layernorm": "layers.{i}.feed_forward_norm",
}
_ATTENTION_NAMES = {hf: path for hf, path in bert.LAYER_NAMES.items() if "attention" in hf}
# Modules that only some checkpoints have: BERT's feed-forward block, and the norms of queries and keys.
_OPTIONAL_NAMES = {
    "encoder.layer.{i}.intermediate.dense": "layers.{i}.feed_forward.up",
    "encoder.layer.{i}.attention.self.layer_norm_q": "layers.{i}.attention.query_norm",
    "encoder.layer.{i}.attention.self.layer_norm_k": "layers.{i}.attention.key_norm",
    "encoder.layer.{i}.layer_norm_1": "layers.{i}.residual_norm",
}
# Names of the same modules in checkpoints with BERT's block, and in those with query and key norms.
_ALTERNATE_NAMES = {
    "encoder.layer.{i}.output.dense": "encoder.layer.{i}.mlp.wo",
    "encoder.layer.{i}.output.LayerNorm": "encoder.layer.{i}.mlp.layernorm",
    "encoder.layer.{i}.mlp.up_gated_layer": "encoder.layer.{i}.mlp.gated_layers",
    "encoder.layer.{i}.mlp.down_layer": "encoder.layer.{i}.mlp.wo",
    "encoder.layer.{i}.layer_norm_2": "encoder.layer.{i}.mlp.layernorm",
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="jina_bert",
    config=JinaBertConfig,
    encoder=encoder,
    names={
        **EMBEDDING_NAMES,
        **_ATTENTION_NAMES,
        **GATED_NAMES,
        **_OPTIONAL_NAMES,
        "pooler.dense": "pooler.dense",
    },
    hf_prefix="JinaBert",
    alternate_names=_ALTERNATE_NAMES,
    in_transformers=False,
    keys_of_tensors=keys_of_tensors,
)
