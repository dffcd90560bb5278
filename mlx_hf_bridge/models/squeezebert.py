"""SqueezeBERT (Iandola et al., arXiv 2006.11316); reference: transformers/models/squeezebert/modeling_squeezebert.py.

Differs from BERT: linear layers are grouped 1x1 convolutions, with weights (O, I / groups, 1) that are too narrow to be
quantized. Its `attentions` output holds scores before the softmax, as in transformers.
"""

import dataclasses
import math
from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import NEXT_SENTENCE, PRE_TRAINING
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.pointwise import PointwiseAttention, PointwiseConvolution, PointwiseFeedForward
from mlx_hf_bridge.models import bert

_ATTENTION_GROUPS = ("q_groups", "k_groups", "v_groups", "post_attention_groups")
_FEED_FORWARD_GROUPS = ("intermediate_groups", "output_groups")
# Constant of SqueezeBertLayerNorm, whatever config.json says.
_NORM_EPS = 1e-12


@dataclass(frozen=True)
class SqueezeBertConfig(EncoderConfig):
    """SqueezeBERT's keys: number of groups of each linear layer."""

    q_groups: int = 4
    k_groups: int = 4
    v_groups: int = 4
    post_attention_groups: int = 1
    intermediate_groups: int = 4
    output_groups: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in (*_ATTENTION_GROUPS, *_FEED_FORWARD_GROUPS):
            width = math.gcd(self.hidden_size, self.intermediate_size if key in _FEED_FORWARD_GROUPS else 0)
            if width % getattr(self, key):
                raise ConfigError(
                    f"config.json has {key}={getattr(self, key)}, expected a divisor of {width}, "
                    "the common divisor of the widths that it splits. Take the file of the original checkpoint."
                )


def layer(config: SqueezeBertConfig) -> PostNormLayer:
    """Return one layer."""
    width, wide = config.hidden_size, config.intermediate_size
    attention = PointwiseAttention(
        PointwiseConvolution(width, width, config.q_groups),
        PointwiseConvolution(width, width, config.k_groups),
        PointwiseConvolution(width, width, config.v_groups),
        PointwiseConvolution(width, width, config.post_attention_groups),
        config.num_attention_heads,
        (width // config.num_attention_heads) ** -0.5,
    )
    feed_forward = PointwiseFeedForward(
        PointwiseConvolution(width, wide, config.intermediate_groups),
        PointwiseConvolution(wide, width, config.output_groups),
        activation_for(config.hidden_act),
    )
    return PostNormLayer(attention, feed_forward, width, _NORM_EPS)


def encoder(config: SqueezeBertConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(bert.embeddings(config), [layer(config) for _ in range(config.num_hidden_layers)])


NAMES = {
    **bert.EMBEDDING_NAMES,
    "encoder.layers.{i}.attention.query": "layers.{i}.attention.query",
    "encoder.layers.{i}.attention.key": "layers.{i}.attention.key",
    "encoder.layers.{i}.attention.value": "layers.{i}.attention.value",
    "encoder.layers.{i}.post_attention.conv1d": "layers.{i}.attention.out",
    "encoder.layers.{i}.post_attention.layernorm": "layers.{i}.attention_norm",
    "encoder.layers.{i}.intermediate.conv1d": "layers.{i}.feed_forward.up",
    "encoder.layers.{i}.output.conv1d": "layers.{i}.feed_forward.down",
    "encoder.layers.{i}.output.layernorm": "layers.{i}.feed_forward_norm",
    "pooler.dense": "pooler.dense",
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="squeezebert",
    config=SqueezeBertConfig,
    encoder=encoder,
    names=NAMES,
    prefix="transformer",
    hf_prefix="SqueezeBert",
    heads={task: head for task, head in bert.FAMILY.heads.items() if task not in (NEXT_SENTENCE, PRE_TRAINING)},
)
