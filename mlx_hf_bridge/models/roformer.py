"""RoFormer (Su et al., arXiv 2104.09864); reference: transformers/models/roformer/modeling_roformer.py.

Differs from BERT: rotary positions, whose sines and cosines are in the checkpoint, applied to values too in some
checkpoints; embeddings may have another width; no pooler; the classifier has two linear layers.
"""

from dataclasses import dataclass

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
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD, first_token_head, masked_lm_head
from mlx_hf_bridge.architecture.rope import check_head_width
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import NormalizedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.heads import TokenClassifier, take_last_position
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.rotary import RotaryTable
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.transformed_heads import TransformedHead
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class RoFormerConfig(EncoderConfig):
    """RoFormer's keys: width of the embeddings, rotation of values, and the multiple-choice head."""

    embedding_size: int | None = None
    rotary_value: bool = False
    summary_type: str = "last"
    summary_use_proj: bool = False
    summary_activation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_head_width(self.hidden_size // self.num_attention_heads)

    @property
    def width(self) -> int:
        """Width of the embeddings."""
        return self.embedding_size or self.hidden_size


def layer(config: RoFormerConfig) -> PostNormLayer:
    """Return one layer."""
    width = config.hidden_size
    attention = RotaryAttention(width, config.num_attention_heads, rotates_values=config.rotary_value)
    feed_forward = FeedForward(width, config.intermediate_size, activation_for(config.hidden_act))
    return PostNormLayer(attention, feed_forward, width, config.layer_norm_eps)


def encoder(config: RoFormerConfig) -> Encoder:
    """Return the encoder, with a projection where the embeddings have another width."""
    width, hidden = config.width, config.hidden_size
    # The reference has the projection, and checkpoints its tensors, only where the widths differ.
    norm = LayerNorm(width, eps=config.layer_norm_eps)
    return Encoder(
        NormalizedEmbeddings(config.vocab_size, width, norm, config.type_vocab_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        projection=None if width == hidden else Linear(width, hidden),
        rotary=RotaryTable(config.max_position_embeddings, hidden // config.num_attention_heads),
    )


def choice_head(config: RoFormerConfig) -> TransformedHead:
    """Return RoFormerSequenceSummary and a linear layer to one number; ConfigError unless settings are the default."""
    if config.summary_type != "last" or config.summary_use_proj or config.summary_activation:
        raise ConfigError(
            f"config.json has summary_type={config.summary_type!r}, summary_use_proj={config.summary_use_proj} and "
            f"summary_activation={config.summary_activation!r}; supported are 'last', false and none. "
            "Use transformers on torch for this model."
        )
    return TransformedHead(nn.Identity(), TokenClassifier(config.hidden_size, 1), pool=take_last_position)


NAMES = {
    **{hf: path for hf, path in bert.EMBEDDING_NAMES.items() if path != "embeddings.position"},
    **bert.LAYER_NAMES,
    "encoder.embed_positions": "rotary.table",
    "embeddings_project": "projection",
}

FAMILY = Family(
    model_type="roformer",
    config=RoFormerConfig,
    encoder=encoder,
    names=NAMES,
    prefix="roformer",
    hf_prefix="RoFormer",
    tokenizer="RoFormerTokenizer",
    heads={
        MASKED_LM: masked_lm_head(
            {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.LayerNorm": "norm"},
            "cls.predictions",
            "cls.predictions.decoder",
            width=lambda config: config.width,
        ),
        SEQUENCE_CLASSIFICATION: first_token_head(),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: Head(build=choice_head, names={"classifier": "head.out"}),
    },
)
