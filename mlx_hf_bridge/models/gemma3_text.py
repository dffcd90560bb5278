"""EmbeddingGemma (Vera et al., arXiv 2509.20354); reference: transformers/models/gemma3/modeling_gemma3.py.

Gemma 3 with bidirectional attention; decoders of this type are not supported. Differs from Qwen3: norms also after each
block, norms multiply by 1 + weight, two rotary bases, and most layers have sliding-window attention.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.architecture.rope import check_head_width, rope_theta_from
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import DoubleNormLayer
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.models import qwen3

_GLOBAL, _LOCAL = "full_attention", "sliding_attention"


@dataclass(frozen=True, kw_only=True)
class Gemma3Config(EncoderConfig):
    """Gemma 3's keys: attention, sliding windows and rotary bases, with the defaults of transformers."""

    type_vocab_size: int = field(default=0, init=False)
    layer_norm_eps: float = 1e-6
    num_key_value_heads: int = 4
    head_dim: int | None = 256
    attention_bias: bool = False
    query_pre_attn_scalar: float = 256
    sliding_window: int = 4096
    sliding_window_pattern: int = 6
    layer_types: Sequence[str] | None = None
    rope_parameters: Mapping[str, Any] | None = None
    rope_scaling: Mapping[str, Any] | None = None
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    use_bidirectional_attention: bool = False

    reads_head_dim: ClassVar[bool] = True
    attribute_map: ClassVar = {"layer_norm_eps": "rms_norm_eps", "hidden_act": "hidden_activation"}
    unsupported_values: ClassVar = {
        **EncoderConfig.unsupported_values,
        # Next to use_bidirectional_attention, transformers then lets tokens attend to padding (masking_utils.py).
        "is_causal": lambda value: value is False,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.use_bidirectional_attention:
            raise ConfigError(
                "config.json has use_bidirectional_attention=false, a decoder; expected true, as in EmbeddingGemma. "
                "Use mlx-lm for decoders."
            )
        known = all(kind in (_GLOBAL, _LOCAL) for kind in self.attention_types)
        if (
            not known
            or len(self.attention_types) != self.num_hidden_layers
            or self.num_attention_heads % self.num_key_value_heads
        ):
            raise ConfigError(
                f"config.json has layer_types={self.layer_types!r}, num_attention_heads={self.num_attention_heads} and "
                f"num_key_value_heads={self.num_key_value_heads}; expected a type for each layer, and heads that are a "
                "multiple of the latter. Take the file of the original checkpoint."
            )
        if not self.query_pre_attn_scalar:
            raise ConfigError(
                "config.json has query_pre_attn_scalar=0, expected a number above 0. Take the original file."
            )
        assert all(theta > 0 for theta in self.thetas)
        check_head_width(self.head_dim or 0)

    @property
    def attention_types(self) -> Sequence[str]:
        """Attention type of each layer, "full_attention" or "sliding_attention"."""
        every = self.sliding_window_pattern
        return self.layer_types or [_LOCAL if (i + 1) % every else _GLOBAL for i in range(self.num_hidden_layers)]

    @property
    def thetas(self) -> tuple[float, float]:
        """Rotary bases of full-attention and of sliding-window layers."""
        rope_theta_from(self.rope_scaling, 1.0)
        given = self.rope_parameters or {}
        full = rope_theta_from(given.get(_GLOBAL), self.rope_theta)
        return full, rope_theta_from(given.get(_LOCAL), self.rope_local_base_freq)

    @property
    def has_position_table(self) -> bool:
        """Whether positions are looked up in a table: no, they are rotary."""
        return False


def layer(config: Gemma3Config, attention_type: str) -> DoubleNormLayer:
    """Return one layer; a sliding window covers half of `sliding_window` on each side."""
    width, eps, head_dim = config.hidden_size, config.layer_norm_eps, config.head_dim or 0
    attention = RotaryAttention(
        width,
        config.num_attention_heads,
        head_dim,
        config.num_key_value_heads,
        config.attention_bias,
        window=config.sliding_window // 2 if attention_type == _LOCAL else None,
        rotation_index=int(attention_type == _LOCAL),
        # Instead of 1 / sqrt(head_dim); the two differ in some sizes of Gemma.
        scale=config.query_pre_attn_scalar**-0.5,
        query_norm=RMSNorm(head_dim, eps, offset=1.0),
        key_norm=RMSNorm(head_dim, eps, offset=1.0),
    )
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation_for(config.hidden_act))
    return DoubleNormLayer(attention, feed_forward, partial(RMSNorm, width, eps, 1.0))


def encoder(config: Gemma3Config) -> Encoder:
    """Return the encoder, whose token embeddings are scaled by sqrt(D)."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size, scale=config.hidden_size**0.5),
        [layer(config, attention_type) for attention_type in config.attention_types],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps, offset=1.0),
        rotary=Rotary(config.head_dim or 0, *config.thetas),
    )


NAMES = {
    **qwen3.NAMES,
    "layers.{i}.post_attention_layernorm": "layers.{i}.post_attention_norm",
    "layers.{i}.pre_feedforward_layernorm": "layers.{i}.feed_forward_norm",
    "layers.{i}.post_feedforward_layernorm": "layers.{i}.post_feed_forward_norm",
}

FAMILY = dataclasses.replace(
    qwen3.FAMILY,
    model_type="gemma3_text",
    config=Gemma3Config,
    encoder=encoder,
    names=NAMES,
    alternate_prefixes=(),
    hf_prefix="Gemma3Text",
    tokenizer="GemmaTokenizer",
    heads={SEQUENCE_CLASSIFICATION: qwen3.LAST_TOKEN_HEAD},
    ignored_prefixes=("lm_head",),
    ignored_decoders=("lm_head",),
)
