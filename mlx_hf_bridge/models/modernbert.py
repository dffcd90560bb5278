"""ModernBERT (Warner et al., arXiv 2412.13663); reference: transformers/models/modernbert/modeling_modernbert.py.

Unlike BERT: rotary positions with two bases, most layers see near tokens alone, norms without biases come first (the
first layer has none), the feed-forward block has a gate, no segments, no pooler; every head transforms first.
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
from mlx_hf_bridge.architecture.rope import rope_theta_from
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.embeddings import NormedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward, activation_for
from mlx_hf_bridge.layers.heads import SpanClassifier, TokenClassifier
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.transformed_heads import (
    Pool,
    PreparedHead,
    Transform,
    WordScores,
    first_real_token,
    first_slot,
    mean_of_tokens,
)

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
# One layer in three sees everything where config.json lists no kinds (configuration_modernbert.py).
_GLOBAL_EVERY = 3


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(EncoderConfig):
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
    global_attn_every_n_layers: int = _GLOBAL_EVERY
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
        if len(self.kinds) != self.num_hidden_layers or not set(self.kinds) <= {_GLOBAL, _LOCAL}:
            raise ConfigError(
                f"config.json has layer_types={self.layer_types!r}, expected one of {_GLOBAL} and {_LOCAL} for each of "
                f"num_hidden_layers={self.num_hidden_layers}. Take the file of the original checkpoint."
            )
        assert all(theta > 0 for theta in self.thetas)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Each layer's kind of attention."""
        every = self.global_attn_every_n_layers
        counted = [_LOCAL if layer % every else _GLOBAL for layer in range(self.num_hidden_layers)]
        return tuple(counted if self.layer_types is None else self.layer_types)

    @property
    def thetas(self) -> tuple[float, float]:
        """The bases of the periods of global and of local layers."""
        rope_theta_from(self.rope_scaling, 1.0)
        given = self.rope_parameters or {}
        old = ((_GLOBAL, self.global_rope_theta), (_LOCAL, self.local_rope_theta))
        one, two = (rope_theta_from(given.get(kind), theta) for kind, theta in old)
        return one, two

    def last_position(self, ids: Any) -> int:
        """0, since places are computed with and not looked up."""
        return 0


def norm(config: ModernBertConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.norm_bias)


def layer(config: ModernBertConfig, index: int) -> PreNormLayer:
    """One layer; local ones see half the window to each side."""
    is_local = config.kinds[index] == _LOCAL
    attention = RotaryAttention(
        config.hidden_size,
        config.num_attention_heads,
        bias=config.attention_bias,
        window=config.local_attention // 2 if is_local else None,
        turn=int(is_local),
    )
    activation = activation_for(config.hidden_act)
    feed_forward = GatedFeedForward(config.hidden_size, config.intermediate_size, activation, config.mlp_bias)
    return PreNormLayer(attention, norm(config) if index else nn.Identity(), feed_forward, norm(config))


def encoder(config: ModernBertConfig) -> Encoder:
    return Encoder(
        NormedEmbeddings(config.vocab_size, config.hidden_size, norm(config)),
        [layer(config, index) for index in range(config.num_hidden_layers)],
        final_norm=norm(config),
        rotary=Rotary(config.hidden_size // config.num_attention_heads, *config.thetas),
    )


def transform(config: ModernBertConfig) -> Transform:
    activation = activation_for(config.classifier_activation)
    return Transform(config.hidden_size, activation, norm(config), config.classifier_bias)


def words(config: ModernBertConfig) -> PreparedHead:
    tied = config.tie_word_embeddings
    return PreparedHead(transform(config), WordScores(config.hidden_size, config.vocab_size, tied, config.decoder_bias))


def pooled(classes: Callable[[Any], int], cls: Pool) -> Head:
    """A head that answers once a text, from the mean of its tokens or the first, as config.json says."""
    return Head(
        build=lambda config: PreparedHead(
            transform(config),
            TokenClassifier(config.hidden_size, classes(config)),
            pool=cls if config.classifier_pooling == "cls" else mean_of_tokens,
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
        MASKED_LM: Head(build=words, names=_TRANSFORM, tied={"decoder": "head"}, untied={"decoder": "head.decoder"}),
        SEQUENCE_CLASSIFICATION: pooled(lambda config: config.num_labels, first_slot),
        TOKEN_CLASSIFICATION: Head(
            build=lambda config: PreparedHead(
                transform(config), TokenClassifier(config.hidden_size, config.num_labels)
            ),
            names=_CLASSIFIER,
        ),
        QUESTION_ANSWERING: Head(
            build=lambda config: PreparedHead(transform(config), SpanClassifier(config.hidden_size)),
            names=_CLASSIFIER,
        ),
        MULTIPLE_CHOICE: pooled(lambda config: 1, first_real_token),
    },
    uses_token_type_ids=False,
)
