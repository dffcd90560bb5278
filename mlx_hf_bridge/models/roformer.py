"""RoFormer (Su et al., arXiv 2104.09864); reference: transformers/models/roformer/modeling_roformer.py.

BERT with rotary positions, whose sines and cosines the checkpoint holds, in some checkpoints for values too; embeddings
may be narrower, there is no pooler, and the classifier has a product of its own.
"""

from dataclasses import dataclass

import mlx.core as mx
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
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD, masked_lm_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.embeddings import NormedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward, activation_for
from mlx_hf_bridge.layers.heads import FirstTokenClassifier, TokenClassifier
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.rotary import RotaryTable
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.layers.transformed_heads import PreparedHead
from mlx_hf_bridge.models import bert, roberta


@dataclass(frozen=True, kw_only=True)
class RoFormerConfig(EncoderConfig):
    embedding_size: int | None = None
    rotary_value: bool = False
    summary_type: str = "last"
    summary_use_proj: bool = False
    summary_activation: str | None = None

    @property
    def width(self) -> int:
        """That of the embeddings."""
        return self.embedding_size or self.hidden_size


def layer(config: RoFormerConfig) -> PostNormLayer:
    width = config.hidden_size
    attention = RotaryAttention(width, config.num_attention_heads, turns_values=config.rotary_value)
    feed_forward = FeedForward(width, config.intermediate_size, activation_for(config.hidden_act))
    return PostNormLayer(attention, feed_forward, width, config.layer_norm_eps)


def encoder(config: RoFormerConfig) -> Encoder:
    width, hidden = config.width, config.hidden_size
    norm = LayerNorm(width, eps=config.layer_norm_eps)
    return Encoder(
        NormedEmbeddings(config.vocab_size, width, norm, config.type_vocab_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        projection=None if width == hidden else Linear(width, hidden),
        rotary=RotaryTable(config.max_position_embeddings, hidden // config.num_attention_heads),
    )


def last_slot(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """hidden (B, L, D) -> the last slot's (B, D), padding or not."""
    return hidden[:, -1]


def choice_head(config: RoFormerConfig) -> PreparedHead:
    """RoFormerSequenceSummary and a product to one number; ConfigError for summaries other than the default."""
    if config.summary_type != "last" or config.summary_use_proj or config.summary_activation:
        raise ConfigError(
            f"config.json has summary_type={config.summary_type!r}, summary_use_proj={config.summary_use_proj} and "
            f"summary_activation={config.summary_activation!r}; computed here are 'last', false and none. "
            "Use transformers on torch for this model."
        )
    return PreparedHead(nn.Identity(), TokenClassifier(config.hidden_size, 1), pool=last_slot)


NAMES = {
    **{hf: ours for hf, ours in bert.EMBEDDING_NAMES.items() if ours != "embeddings.position"},
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
        SEQUENCE_CLASSIFICATION: Head(
            build=lambda config: FirstTokenClassifier(
                config.hidden_size, config.num_labels, activation_for(config.hidden_act)
            ),
            names=roberta.CLASSIFIER_NAMES,
        ),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: Head(build=choice_head, names={"classifier": "head.out"}),
    },
)
