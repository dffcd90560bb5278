"""LongT5's encoder (Guo et al., arXiv 2112.07916); reference: transformers/models/longt5/modeling_longt5.py.

Differs from T5: a token sees those within `local_radius`, and with transient-global attention also the sums of all
blocks of `global_block_size` tokens.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.long_attention import LongAttention, LongBias, LongEncoder
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.models import t5

# Kind of attention in config.json -> the name of its modules.
_KINDS = {"local": "LocalSelfAttention", "transient-global": "TransientGlobalSelfAttention"}


@dataclass(frozen=True, kw_only=True)
class LongT5Config(t5.T5Config):
    """T5's keys, and how far and to what tokens attend."""

    local_radius: int = 127
    global_block_size: int = 16
    encoder_attention_type: str = "local"

    minimum_values: ClassVar = {**t5.T5Config.minimum_values, "local_radius": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder_attention_type not in _KINDS:
            raise ConfigError(
                f"config.json has encoder_attention_type={self.encoder_attention_type!r}, expected "
                f"{' or '.join(_KINDS)}. Take the file of the original checkpoint."
            )

    @property
    def block(self) -> int:
        """Tokens that a global token sums up; 0 without global tokens."""
        return self.global_block_size if self.encoder_attention_type == "transient-global" else 0


def layer(config: LongT5Config) -> PreNormLayer:
    """Return one layer."""
    width, size = config.hidden_size, config.local_radius + 1
    norms = [RMSNorm(width, config.layer_norm_eps) for _ in range(3)]
    global_norm = norms[2] if config.block else None
    attention = LongAttention(width, config.num_attention_heads, config.head_dim, size, global_norm)
    return PreNormLayer(attention, norms[0], t5.feed_forward(config), norms[1])


def encoder(config: LongT5Config) -> LongEncoder:
    """Return the encoder, with position biases that all layers share."""
    buckets, distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
    return LongEncoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [layer(config) for _ in range(config.num_hidden_layers)],
        LongBias(config.num_attention_heads, buckets, distance, config.local_radius, config.block),
        RMSNorm(config.hidden_size, config.layer_norm_eps),
    )


def attention_names(config: LongT5Config) -> dict[str, str]:
    """Return the names of attention, which depend on its kind."""
    kind = _KINDS[config.encoder_attention_type]
    each, first = (f"encoder.block.{number}.layer.0.{kind}" for number in ("{i}", "0"))
    slices = {f"{each}.{part}": f"layers.{{i}}.attention.qkv#{index}" for index, part in enumerate("qkv")}
    names = {**slices, f"{each}.o": "layers.{i}.attention.out", f"{first}.relative_attention_bias": "context.table"}
    if not config.block:
        return names
    norm = {f"{each}.global_input_layer_norm": "layers.{i}.attention.global_norm"}
    return {**names, **norm, f"{first}.global_relative_attention_bias": "context.global_table"}


FAMILY = dataclasses.replace(
    t5.FAMILY,
    model_type="longt5",
    config=LongT5Config,
    encoder=encoder,
    names={hf: path for hf, path in t5.LAYER_NAMES.items() if "SelfAttention" not in hf},
    own_names=attention_names,
    hf_prefix="LongT5",
    heads={},
)
