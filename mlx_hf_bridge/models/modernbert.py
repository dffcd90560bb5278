"""ModernBERT (Warner et al., arXiv 2412.13663); reference: transformers/models/modernbert/modeling_modernbert.py.

Differs from BERT: rotary positions with two bases, sliding-window attention in most layers, norms without biases before
each block (none before the first attention), a gated feed-forward block, no token types, no pooler; every head starts
with a linear layer, activation and norm.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.nn as nn

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.rope import check_head_width, rope_theta_from
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import NormalizedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.heads import SpanClassifier, TokenClassifier
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.transformed_heads import (
    LMHead,
    Pool,
    Transform,
    TransformedHead,
    mean_pool,
    take_first_position,
    take_first_unmasked,
)

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# Every third layer has full attention where config.json has no layer_types (configuration_modernbert.py).
_FULL_ATTENTION_EVERY = 3


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(EncoderConfig):
    """ModernBERT's keys, with the defaults of transformers."""

    type_vocab_size: int = field(default=0, init=False)
    layer_norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    decoder_bias: bool = True
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    classifier_pooling: str = "cls"
    local_attention: int = 128
    layer_types: tuple[str, ...] | None = None
    global_attn_every_n_layers: int = _FULL_ATTENTION_EVERY
    rope_parameters: Mapping[str, Any] | None = None
    rope_scaling: Mapping[str, Any] | None = None
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0

    attribute_map: ClassVar = {"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"}

    def __post_init__(self) -> None:
        super().__post_init__()
        activation_for(self.classifier_activation)
        if self.classifier_pooling not in ("cls", "mean"):
            raise ConfigError(f"config.json has classifier_pooling={self.classifier_pooling!r}, expected cls or mean.")
        if len(self.attention_types) != self.num_hidden_layers or not all(
            kind in (_GLOBAL, _LOCAL) for kind in self.attention_types
        ):
            raise ConfigError(
                f"config.json has layer_types={self.layer_types!r}, expected one of {_GLOBAL} and {_LOCAL} for each of "
                f"num_hidden_layers={self.num_hidden_layers}. Take the file of the original checkpoint."
            )
        assert all(theta > 0 for theta in self.thetas)
        check_head_width(self.hidden_size // self.num_attention_heads)

    @property
    def attention_types(self) -> tuple[str, ...]:
        """Attention type of each layer, "full_attention" or "sliding_attention"."""
        every = self.global_attn_every_n_layers
        default = [_LOCAL if layer % every else _GLOBAL for layer in range(self.num_hidden_layers)]
        return tuple(default if self.layer_types is None else self.layer_types)

    @property
    def thetas(self) -> tuple[float, float]:
        """Rotary bases of full-attention and of sliding-window layers."""
        rope_theta_from(self.rope_scaling, 1.0)
        given = self.rope_parameters or {}
        full = rope_theta_from(given.get(_GLOBAL), self.global_rope_theta)
        return full, rope_theta_from(given.get(_LOCAL), self.local_rope_theta)

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, they are rotary."""
        return False


def norm(config: ModernBertConfig) -> LayerNorm:
    """Return a LayerNorm of the hidden states, with a bias if the config says so."""
    return LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.norm_bias)


def layer(config: ModernBertConfig, index: int) -> PreNormLayer:
    """Return one layer; a sliding window covers half of `local_attention` on each side."""
    is_local = config.attention_types[index] == _LOCAL
    attention = RotaryAttention(
        config.hidden_size,
        config.num_attention_heads,
        bias=config.attention_bias,
        # local_attention is the whole window (configuration_modernbert.py, sliding_window).
        window=config.local_attention // 2 if is_local else None,
        rotation_index=int(is_local),
    )
    activation = activation_for(config.hidden_act)
    feed_forward = GatedFeedForward(config.hidden_size, config.intermediate_size, activation, config.mlp_bias)
    return PreNormLayer(attention, norm(config) if index else nn.Identity(), feed_forward, norm(config))


def encoder(config: ModernBertConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        NormalizedEmbeddings(config.vocab_size, config.hidden_size, norm(config)),
        [layer(config, index) for index in range(config.num_hidden_layers)],
        final_norm=norm(config),
        rotary=Rotary(config.hidden_size // config.num_attention_heads, *config.thetas),
    )


def transform(config: ModernBertConfig) -> Transform:
    """Return the linear layer, activation and norm that every head starts with."""
    activation = activation_for(config.classifier_activation)
    return Transform(config.hidden_size, activation, norm(config), config.classifier_bias)


def masked_lm(config: ModernBertConfig) -> TransformedHead:
    """Return the masked-LM head."""
    tied = config.tie_word_embeddings
    return TransformedHead(transform(config), LMHead(config.hidden_size, config.vocab_size, tied, config.decoder_bias))


def pooled(classes: Callable[[Any], int], cls: Pool) -> Head:
    """Return a head with one output per text, from the mean of the hidden states or, for "cls", from `cls`."""
    return Head(
        build=lambda config: TransformedHead(
            transform(config),
            TokenClassifier(config.hidden_size, classes(config)),
            pool=cls if config.classifier_pooling == "cls" else mean_pool,
        ),
        names=_CLASSIFIER,
    )


_LAYER_NAMES = {
    "layers.{i}.attn.Wqkv": "layers.{i}.attention.qkv",
    "layers.{i}.attn.Wo": "layers.{i}.attention.out",
    "layers.{i}.attn_norm": "layers.{i}.attention_norm",
    "layers.{i}.mlp.Wi": "layers.{i}.feed_forward.gate_up",
    "layers.{i}.mlp.Wo": "layers.{i}.feed_forward.down",
    "layers.{i}.mlp_norm": "layers.{i}.feed_forward_norm",
}
_TRANSFORM = {"head.dense": "transform.dense", "head.norm": "transform.norm"}
_CLASSIFIER = {**_TRANSFORM, "classifier": "head.out"}

FAMILY = Family(
    model_type="modernbert",
    config=ModernBertConfig,
    encoder=encoder,
    names={
        "embeddings.tok_embeddings": "embeddings.word",
        "embeddings.norm": "embeddings.norm",
        **_LAYER_NAMES,
        "final_norm": "final_norm",
    },
    prefix="model",
    hf_prefix="ModernBert",
    tokenizer="PreTrainedTokenizerFast",
    heads={
        MASKED_LM: Head(
            build=masked_lm, names=_TRANSFORM, tied={"decoder": "head"}, untied={"decoder": "head.decoder"}
        ),
        SEQUENCE_CLASSIFICATION: pooled(lambda config: config.num_labels, take_first_position),
        TOKEN_CLASSIFICATION: Head(
            build=lambda config: TransformedHead(
                transform(config), TokenClassifier(config.hidden_size, config.num_labels)
            ),
            names=_CLASSIFIER,
        ),
        QUESTION_ANSWERING: Head(
            build=lambda config: TransformedHead(transform(config), SpanClassifier(config.hidden_size)),
            names=_CLASSIFIER,
        ),
        MULTIPLE_CHOICE: pooled(lambda config: 1, take_first_unmasked),
    },
    uses_token_type_ids=False,
)
