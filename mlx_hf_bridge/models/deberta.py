"""DeBERTa (He et al., arXiv 2006.03654); reference: transformers/models/deberta/modeling_deberta.py.

Differs from BERT: attention adds scores between contents and relative positions; no pooler in the encoder; absolute
positions and token types are optional; embeddings of padding are set to 0; classifiers have two linear layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD, masked_lm_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.disentangled import (
    DisentangledAttention,
    HeadwiseProjection,
    PositionProjection,
    TalkingHeads,
)
from mlx_hf_bridge.layers.embeddings import MaskedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import FirstTokenClassifier, MaskedLMHead
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.relative_positions import RelativePositionTable
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class DebertaConfig(EncoderConfig):
    """DeBERTa's keys: relative attention, width of the embeddings, and the classifier's activation."""

    layer_norm_eps: float = 1e-7
    type_vocab_size: int = 0
    embedding_size: int | None = None
    relative_attention: bool = False
    max_relative_positions: int = -1
    position_biased_input: bool = True
    pos_att_type: str | Sequence[str] | None = None
    talking_head: bool = False
    pooler_hidden_act: str = "gelu"
    legacy: bool = True

    minimum_values: ClassVar = {"max_relative_positions": -1}

    def __post_init__(self) -> None:
        super().__post_init__()
        activation_for(self.pooler_hidden_act)

    @property
    def sides(self) -> list[str]:
        """The listed score terms: "c2p" (content to position), "p2c", and "p2p", which only counts in the scale."""
        listed = self.pos_att_type or []
        return [side.strip() for side in listed.lower().split("|")] if isinstance(listed, str) else list(listed)

    @property
    def width(self) -> int:
        """Width of the token embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def max_distance(self) -> int:
        """Longest relative distance that has its own embedding."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings

    @property
    def has_position_table(self) -> bool:
        """Whether absolute positions are added to the embeddings, besides the relative ones."""
        return self.position_biased_input


def embeddings(config: DebertaConfig) -> MaskedEmbeddings:
    """Return the embeddings, with positions and token types if the config has them."""
    positions = config.max_position_embeddings if config.position_biased_input else 0
    size, eps = config.hidden_size, config.layer_norm_eps
    return MaskedEmbeddings(config.vocab_size, config.width, size, positions, config.type_vocab_size, eps)


def position_projection(config: DebertaConfig, key_bias: bool) -> PositionProjection | None:
    """Return the linear layers of relative positions for the listed score terms; None without relative attention."""
    if not config.relative_attention:
        return None
    size = config.hidden_size
    return PositionProjection(
        config.num_attention_heads,
        query=Linear(size, size) if "p2c" in config.sides else None,
        key=Linear(size, size, key_bias) if "c2p" in config.sides else None,
    )


def attention(config: DebertaConfig) -> DisentangledAttention:
    """Return the attention of one layer."""
    size, heads = config.hidden_size, config.num_attention_heads
    return DisentangledAttention(
        size,
        heads,
        HeadwiseProjection(size, heads),
        config.sides,
        # Scores are divided by sqrt(K * terms), content to content included (modeling_deberta.py, scaled_size_sqrt).
        scale_factor=1 + len(config.sides),
        position_projection=position_projection(config, key_bias=False),
        talking=TalkingHeads(heads) if config.talking_head else None,
    )


def encoder(config: DebertaConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        embeddings(config),
        [bert.post_norm_layer(config, attention(config)) for _ in range(config.num_hidden_layers)],
        position_bias=RelativePositionTable(config.max_distance, config.hidden_size)
        if config.relative_attention
        else None,
    )


BASE_NAMES = {
    **bert.EMBEDDING_NAMES,
    **{hf: path for hf, path in bert.LAYER_NAMES.items() if ".self." not in hf},
    "embeddings.embed_proj": "embeddings.projection",
    "encoder.rel_embeddings": "position_bias.table",
}
_SELF = "encoder.layer.{i}.attention.self"
NAMES = {
    **BASE_NAMES,
    _SELF: "layers.{i}.attention.projection",
    f"{_SELF}.in_proj": "layers.{i}.attention.projection.qkv",
    f"{_SELF}.pos_proj": "layers.{i}.attention.position_projection.key",
    f"{_SELF}.pos_q_proj": "layers.{i}.attention.position_projection.query",
    f"{_SELF}.head_logits_proj": "layers.{i}.attention.talking.scores",
    f"{_SELF}.head_weights_proj": "layers.{i}.attention.talking.weights",
}


def _original_masked_lm(config: DebertaConfig) -> MaskedLMHead:
    """Return the masked-LM head of the original code; ConfigError if the token embeddings have another width."""
    if config.width != config.hidden_size:
        raise ConfigError(
            f"config.json has legacy=false and embedding_size={config.width}, expected hidden_size="
            f"{config.hidden_size}: this masked-LM head multiplies by the token embeddings. Use transformers' "
            "legacy=true."
        )
    act = activation_for(config.hidden_act)
    return MaskedLMHead(config.hidden_size, config.width, config.vocab_size, act, config.layer_norm_eps)


# By config.legacy: the head of transformers' class, and that of the original code.
_MASKED_LM = {
    True: masked_lm_head(
        bert.FAMILY.heads[MASKED_LM].names,
        "cls.predictions",
        "cls.predictions.decoder",
        width=lambda config: config.width,
    ),
    False: Head(
        build=_original_masked_lm,
        names={
            "lm_predictions.lm_head.dense": "dense",
            "lm_predictions.lm_head.LayerNorm": "norm",
            "lm_predictions.lm_head": "",
        },
    ),
}


def pooled_head(classes: int | None = None) -> Head:
    """Return transformers' ContextPooler with a linear layer; the pooler is part of the heads here.

    Args:
        classes: Number of outputs; None = `config.num_labels`.

    Returns:
        The head.
    """
    return Head(
        build=lambda config: FirstTokenClassifier(
            config.hidden_size, classes or config.num_labels, activation_for(config.pooler_hidden_act)
        ),
        names={"pooler.dense": "dense", "classifier": "out"},
    )


def unused_modules(config: DebertaConfig) -> tuple[str, ...]:
    """Return the position table, which files on the Hub have even where the config does not use it."""
    return () if config.position_biased_input else ("embeddings.position_embeddings",)


FAMILY = Family(
    model_type="deberta",
    config=DebertaConfig,
    encoder=encoder,
    names=NAMES,
    prefix="deberta",
    hf_prefix="Deberta",
    tokenizer="DebertaTokenizer",
    heads={
        MASKED_LM: Head(
            build=lambda config: _MASKED_LM[config.legacy].build(config),
            names={},
            variant_for=lambda config: _MASKED_LM[config.legacy],
        ),
        SEQUENCE_CLASSIFICATION: pooled_head(),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
    },
    other_heads=("cls", "lm_predictions", "mask_predictions"),
    unused_modules=unused_modules,
)
