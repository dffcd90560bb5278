"""DeBERTa v2 and v3 (He et al., arXiv 2111.09543); reference: transformers/models/deberta_v2/modeling_deberta_v2.py.

Differs from DeBERTa: BERT's query, key and value layers; distances in logarithmic buckets; the relative position table
may be normalized and share the content's linear layers; v2 adds a convolution to the first layer's output.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.architecture.family import MULTIPLE_CHOICE
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import Activation, activation_for
from mlx_hf_bridge.layers.disentangled import DisentangledAttention, QueryKeyValueProjection
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.relative_positions import RelativePositionTable
from mlx_hf_bridge.models import bert, deberta


@dataclass(frozen=True)
class DebertaV2Config(deberta.DebertaConfig):
    """The keys that v2 and v3 add: distance buckets, shared linear layers, and the convolution."""

    position_buckets: int = -1
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    conv_kernel_size: int = 0
    conv_groups: int = 1
    conv_act: str = "tanh"
    attention_head_size: int | None = None

    minimum_values: ClassVar = {**deberta.DebertaConfig.minimum_values, "position_buckets": -1, "conv_kernel_size": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        activation_for(self.conv_act)
        head_size = self.hidden_size // self.num_attention_heads
        if self.attention_head_size not in (None, head_size):
            raise ConfigError(
                f"config.json has attention_head_size={self.attention_head_size}, expected {head_size}, hidden_size "
                "divided by num_attention_heads; transformers has no other. Take the file of the original checkpoint."
            )
        if self.position_buckets == 1:
            raise ConfigError(
                f"config.json has position_buckets={self.position_buckets}, expected 2 or more, or -1 for none. "
                "Take the file of the original checkpoint."
            )
        if self.conv_kernel_size > 0 and self.conv_kernel_size % 2 == 0:
            raise ConfigError(
                f"config.json has conv_kernel_size={self.conv_kernel_size}, expected an odd number, so that the "
                "output is as long as the text. Take the file of the original checkpoint."
            )

    @property
    def normalizes_positions(self) -> bool:
        """Whether a norm follows the table of relative positions."""
        return "layer_norm" in [option.strip() for option in self.norm_rel_ebd.lower().split("|")]


class Convolution(nn.Module):
    """Convolution along the text, with the weight in torch's layout (D, D / groups, kernel).

    Args:
        hidden_size: Width D of input and output.
        kernel: Number of tokens of the kernel, odd.
        groups: Number of channel groups.

    Calling it with x of shape (B, L, D) returns an array of that shape.
    """

    def __init__(self, hidden_size: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.weight = mx.zeros((hidden_size, hidden_size // groups, kernel))
        self.bias = mx.zeros((hidden_size,))
        self._padding, self._groups = (kernel - 1) // 2, groups

    def __call__(self, x: mx.array) -> mx.array:
        weight = self.weight.swapaxes(1, 2)
        return mx.conv1d(x, weight, padding=self._padding, groups=self._groups) + self.bias


class ConvolvedSum(nn.Module):
    """The first layer's output plus a convolution of the embeddings: norm(hidden + activation(convolution(embedded))).

    Args:
        convolution: The convolution.
        activation: Function after the convolution.
        hidden_size: Width D.
        eps: Epsilon of the norm.

    Calling it with embeddings and the layer's output, both (B, L, D), returns an array of that shape.
    """

    def __init__(self, convolution: Convolution, activation: Activation, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.convolution = convolution
        self.activation = activation
        self.norm = LayerNorm(hidden_size, eps=eps)

    def __call__(self, embedded: mx.array, hidden: mx.array) -> mx.array:
        normed: mx.array = self.norm(hidden + self.activation(self.convolution(embedded)))
        return normed


def attention(config: DebertaV2Config) -> DisentangledAttention:
    """Return the attention of one layer."""
    size, heads = config.hidden_size, config.num_attention_heads
    # Unlike DeBERTa, p2p does not count in the scale (DisentangledSelfAttention.forward of the reference).
    sides = {"c2p", "p2c"} & set(config.sides)
    # With share_att_key the content's linear layers serve positions too.
    positions = None if config.share_att_key else deberta.position_projection(config, key_bias=True)
    return DisentangledAttention(
        size,
        heads,
        QueryKeyValueProjection(size, heads),
        sides,
        scale_factor=1 + len(sides),
        position_projection=positions,
    )


def relative_positions(config: DebertaV2Config) -> RelativePositionTable:
    """Return the table of relative positions, with or without buckets and norm."""
    bucketed = config.position_buckets > 0
    size = config.hidden_size
    return RelativePositionTable(
        config.position_buckets if bucketed else config.max_distance,
        size,
        norm=LayerNorm(size, eps=config.layer_norm_eps) if config.normalizes_positions else None,
        buckets=config.position_buckets,
        max_distance=config.max_distance,
    )


def convolved_sum(config: DebertaV2Config) -> ConvolvedSum:
    """Return the convolution that is added to the first layer's output."""
    size = config.hidden_size
    convolution = Convolution(size, config.conv_kernel_size, config.conv_groups)
    return ConvolvedSum(convolution, activation_for(config.conv_act), size, config.layer_norm_eps)


def encoder(config: DebertaV2Config) -> Encoder:
    """Return the encoder."""
    return Encoder(
        deberta.embeddings(config),
        [bert.post_norm_layer(config, attention(config)) for _ in range(config.num_hidden_layers)],
        position_bias=relative_positions(config) if config.relative_attention else None,
        after_first_layer=convolved_sum(config) if config.conv_kernel_size > 0 else None,
    )


_SELF = "encoder.layer.{i}.attention.self"
NAMES = {
    **deberta.BASE_NAMES,
    f"{_SELF}.query_proj": "layers.{i}.attention.projection.query_key#0",
    f"{_SELF}.key_proj": "layers.{i}.attention.projection.query_key#1",
    f"{_SELF}.value_proj": "layers.{i}.attention.projection.value",
    f"{_SELF}.pos_query_proj": "layers.{i}.attention.position_projection.query",
    f"{_SELF}.pos_key_proj": "layers.{i}.attention.position_projection.key",
    "encoder.LayerNorm": "position_bias.norm",
    "encoder.conv.conv": "after_first_layer.convolution",
    "encoder.conv.LayerNorm": "after_first_layer.norm",
}

FAMILY = dataclasses.replace(
    deberta.FAMILY,
    model_type="deberta-v2",
    config=DebertaV2Config,
    encoder=encoder,
    names=NAMES,
    hf_prefix="DebertaV2",
    tokenizer="DebertaV2Tokenizer",
    heads={**deberta.FAMILY.heads, MULTIPLE_CHOICE: deberta.pooled_head(classes=1)},
)
