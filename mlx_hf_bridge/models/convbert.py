"""ConvBERT (Jiang et al., arXiv 2008.02496); reference: transformers/models/convbert/modeling_convbert.py.

Differs from BERT: ELECTRA's embeddings and heads, and half of the attention heads are replaced by convolutions whose
kernels are computed from the text.
"""

import dataclasses
from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    MULTIPLE_CHOICE,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Head,
)
from mlx_hf_bridge.architecture.heads import SPAN_HEAD, TOKEN_HEAD, first_token_head
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.dynamic_convolution import MixedAttention
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward, GroupedFeedForward
from mlx_hf_bridge.layers.heads import TokenClassifier, take_last_position
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.layers.transformed_heads import Transform, TransformedHead, take_first_position
from mlx_hf_bridge.models import bert, electra

_SUMMARIES = {"first": take_first_position, "last": take_last_position}


@dataclass(frozen=True, kw_only=True)
class ConvBertConfig(EncoderConfig):
    """ConvBERT's keys: width of the embeddings, convolution kernel, feed-forward groups, and the choice head."""

    embedding_size: int
    head_ratio: int = 2
    conv_kernel_size: int = 9
    num_groups: int = 1
    summary_type: str = "last"
    summary_use_proj: bool = False
    summary_activation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_kernel_size % 2 == 0 or self.hidden_size % (2 * self.attention_heads):
            raise ConfigError(
                f"config.json has conv_kernel_size={self.conv_kernel_size}, hidden_size={self.hidden_size} and "
                f"{self.attention_heads} heads of each kind; expected an odd kernel, and a width "
                "that the heads divide. "
                "Take the file of the original checkpoint."
            )

    @property
    def attention_heads(self) -> int:
        """Number of attention heads; there are as many convolution heads."""
        return max(1, self.num_attention_heads // self.head_ratio)


def layer(config: ConvBertConfig) -> PostNormLayer:
    """Return one layer; `num_groups` above 1 splits its feed-forward block into groups."""
    sizes = config.hidden_size, config.intermediate_size, activation_for(config.hidden_act)
    feed_forward = FeedForward(*sizes) if config.num_groups == 1 else GroupedFeedForward(*sizes, config.num_groups)
    attention = MixedAttention(config.hidden_size, config.attention_heads, config.conv_kernel_size)
    return PostNormLayer(attention, feed_forward, config.hidden_size, config.layer_norm_eps)


def encoder(config: ConvBertConfig) -> Encoder:
    """Return the encoder, with a projection where the embeddings have another width."""
    width, hidden = config.embedding_size, config.hidden_size
    # The reference has the projection, and checkpoints its tensors, only where the widths differ.
    projection = None if width == hidden else Linear(width, hidden)
    layers = [layer(config) for _ in range(config.num_hidden_layers)]
    return Encoder(bert.embeddings(config, width), layers, projection=projection)


def choice_head(config: ConvBertConfig) -> TransformedHead:
    """Return ConvBertSequenceSummary and a linear layer to one number; ConfigError for unsupported summary types."""
    if config.summary_type not in _SUMMARIES:
        raise ConfigError(
            f"config.json has summary_type={config.summary_type!r}; supported are {', '.join(_SUMMARIES)}. "
            "Use transformers on torch for this model."
        )
    activation = activation_for(config.summary_activation or "linear")
    summary = Transform(config.hidden_size, activation) if config.summary_use_proj else activation
    return TransformedHead(summary, TokenClassifier(config.hidden_size, 1), pool=_SUMMARIES[config.summary_type])


_SELF = "encoder.layer.{i}.attention.self"
NAMES = {
    **bert.EMBEDDING_NAMES,
    **bert.LAYER_NAMES,
    "embeddings_project": "projection",
    f"{_SELF}.key_conv_attn_layer": "layers.{i}.attention.near_keys",
    f"{_SELF}.key_conv_attn_layer.depthwise": "layers.{i}.attention.near_keys.depthwise",
    f"{_SELF}.key_conv_attn_layer.pointwise": "layers.{i}.attention.near_keys.pointwise",
    f"{_SELF}.conv_kernel_layer": "layers.{i}.attention.kernel",
    f"{_SELF}.conv_out_layer": "layers.{i}.attention.near_values",
}

FAMILY = dataclasses.replace(
    electra.FAMILY,
    length_dependent=True,
    model_type="convbert",
    config=ConvBertConfig,
    encoder=encoder,
    names=NAMES,
    prefix="convbert",
    hf_prefix="ConvBert",
    tokenizer="BertTokenizer",
    heads={
        MASKED_LM: electra.FAMILY.heads[MASKED_LM],
        SEQUENCE_CLASSIFICATION: first_token_head(),
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
        QUESTION_ANSWERING: SPAN_HEAD,
        MULTIPLE_CHOICE: Head(
            build=choice_head, names={"sequence_summary.summary": "transform.dense", "classifier": "head.out"}
        ),
    },
)
