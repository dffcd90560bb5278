"""T5Gemma's encoder (Zhang et al., arXiv 2504.06225); reference: transformers/models/t5gemma/modeling_t5gemma.py.

Differs from Gemma 3: no norms of queries and keys, attention scores are soft-capped, and config.json holds the configs
of the encoder and the decoder. Heads that read the decoder's output are not supported.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Head
from mlx_hf_bridge.architecture.rope import rope_theta_from
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.heads import LastTokenClassifier, TokenClassifier
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import DoubleNormLayer
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.models import gemma3_text

_LOCAL = "sliding_attention"
# Keys that stand at the top of config.json and not in the encoder's part.
_SHARED_KEYS = (
    "model_type",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "pad_token_id",
    "is_encoder_decoder",
)


@dataclass(frozen=True, kw_only=True)
class T5GemmaConfig(gemma3_text.Gemma3Config):
    """T5Gemma's keys: what differs from Gemma 3's defaults, and the cap of attention scores."""

    use_bidirectional_attention: bool = True
    sliding_window_pattern: int = 2
    rope_theta: float = 10_000.0
    attn_logit_softcapping: float | None = 50.0
    is_encoder_decoder: bool = True

    unsupported_values: ClassVar = {"is_decoder": bool}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of the encoder's part of a parsed config.json."""
        part = raw.get("encoder")
        if not isinstance(part, Mapping):
            raise ConfigError(
                f"config.json has encoder={part!r}, expected the encoder's own configuration. "
                "Take the file of the original checkpoint."
            )
        whole = {key: raw[key] for key in _SHARED_KEYS if key in raw}
        return super().from_json({**part, **whole})

    @property
    def thetas(self) -> tuple[float, float]:
        """Rotary base, once for full-attention and once for sliding-window layers; both are equal."""
        theta = rope_theta_from(self.rope_parameters, self.rope_theta)
        return theta, theta

    def default_attention_mask(self, ids: np.ndarray) -> np.ndarray:
        """Return the mask of ids that are not padding (make_default_2d_attention_mask of the reference)."""
        return np.asarray(ids != self.pad_token_id)


def layer(config: T5GemmaConfig, attention_type: str) -> DoubleNormLayer:
    """Return one layer; a sliding window covers `sliding_window` tokens on each side."""
    width, eps = config.hidden_size, config.layer_norm_eps
    attention = RotaryAttention(
        width,
        config.num_attention_heads,
        config.head_dim,
        config.num_key_value_heads,
        config.attention_bias,
        window=config.sliding_window if attention_type == _LOCAL else None,
        scale=config.query_pre_attn_scalar**-0.5,
        cap=config.attn_logit_softcapping,
    )
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation_for(config.hidden_act))
    return DoubleNormLayer(attention, feed_forward, partial(RMSNorm, width, eps, 1.0))


def encoder(config: T5GemmaConfig) -> Encoder:
    """Return the encoder, which scales inputs_embeds by sqrt(D) too, as the reference does."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size, scale=config.hidden_size**0.5, scale_inputs_embeds=True),
        [layer(config, attention_type) for attention_type in config.attention_types],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps, offset=1.0),
        rotary=Rotary(config.head_dim or 0, config.thetas[0]),
    )


def encoder_only_head(build: Callable[[T5GemmaConfig], nn.Module]) -> Head:
    """Return a head for checkpoints without a decoder; building it for others raises ConfigError."""

    def checked(config: T5GemmaConfig) -> nn.Module:
        if config.is_encoder_decoder:
            raise ConfigError(
                "config.json has is_encoder_decoder=true: this head reads the decoder's output, and only the encoder "
                "is implemented. Use transformers on torch for this head."
            )
        return build(config)

    return Head(build=checked, names={"score.out_proj": "out"})


_SELF = "layers.{i}.self_attn"
_NAMES = {
    "embed_tokens": "embeddings.word",
    "layers.{i}.pre_self_attn_layernorm": "layers.{i}.attention_norm",
    f"{_SELF}.q_proj": "layers.{i}.attention.query",
    f"{_SELF}.k_proj": "layers.{i}.attention.kv#0",
    f"{_SELF}.v_proj": "layers.{i}.attention.kv#1",
    f"{_SELF}.o_proj": "layers.{i}.attention.out",
    "layers.{i}.post_self_attn_layernorm": "layers.{i}.post_attention_norm",
    "layers.{i}.pre_feedforward_layernorm": "layers.{i}.feed_forward_norm",
    "layers.{i}.mlp.gate_proj": "layers.{i}.feed_forward.gate_up#0",
    "layers.{i}.mlp.up_proj": "layers.{i}.feed_forward.gate_up#1",
    "layers.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
    "layers.{i}.post_feedforward_layernorm": "layers.{i}.post_feed_forward_norm",
    "norm": "final_norm",
}

FAMILY = dataclasses.replace(
    gemma3_text.FAMILY,
    model_type="t5gemma",
    config=T5GemmaConfig,
    encoder=encoder,
    names={f"encoder.{hf}": path for hf, path in _NAMES.items()},
    hf_prefix="T5Gemma",
    hf_base_suffix="EncoderModel",
    heads={
        SEQUENCE_CLASSIFICATION: encoder_only_head(
            lambda config: LastTokenClassifier(config.hidden_size, config.num_labels, config.pad_token_id, bias=True)
        ),
        TOKEN_CLASSIFICATION: encoder_only_head(lambda config: TokenClassifier(config.hidden_size, config.num_labels)),
    },
    ignored_prefixes=("decoder", "lm_head"),
)
