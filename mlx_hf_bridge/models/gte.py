"""GTE, multilingual and v1.5 (Zhang et al., arXiv 2407.19669); reference: transformers/models/gte/modeling_gte.py.

Differs from NomicBERT: biases in attention and in the feed-forward block's second layer; some checkpoints have no token
types, and some scale the rotary positions by the NTK rule of the authors' code (huggingface/transformers#48416).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import mlx.nn as nn
import numpy as np

from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family
from mlx_hf_bridge.architecture.heads import POOLED_SEQUENCE_HEAD, TOKEN_HEAD, masked_lm_head
from mlx_hf_bridge.architecture.rope import RotaryConfig
from mlx_hf_bridge.architecture.rope import rotary as unscaled_rotary
from mlx_hf_bridge.layers.activations import activation_for, gelu
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.rotary import Rotary
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.models import bert, nomic_bert


@dataclass(frozen=True, kw_only=True)
class GteConfig(RotaryConfig):
    """Rotary config with GTE's default base."""

    default_theta: ClassVar = 160_000.0
    rope_types: ClassVar = (*RotaryConfig.rope_types, "ntk")
    unsupported_values: ClassVar = {
        **RotaryConfig.unsupported_values,
        # "rope" in files of the authors' code, where it means what transformers always does.
        "position_embedding_type": lambda value: value not in (None, "absolute", "rope"),
        # Of the authors' code; transformers' class has layer norms and one scale of the scores whatever these say.
        "layer_norm_type": lambda value: value not in (None, "layer_norm"),
        "logn_attention_scale": bool,
    }


def rotary(config: GteConfig) -> nn.Module:
    """Return the rotary positions, scaled by the NTK rule if the rope type is "ntk".

    Sources: the rule with one factor, huggingface/transformers#48416; with an exponent `mixed_b`, equations 10 to 13 of
    https://kexue.fm/archives/9706, which the authors cite.
    """
    if config.rope_type != "ntk":
        return unscaled_rotary(config)
    width, factor, mixed = config.attention_head_dim, config.rope_factor, config.rope_parameter("mixed_b")
    if mixed is None:
        return Rotary(width, config.theta * factor, stretch=factor ** (2 / width))
    pairs = np.arange(1, width // 2 + 1)
    return Rotary(width, config.theta, stretch=np.exp(np.log(factor) * (pairs / pairs[-1]) ** mixed))


def layer(config: GteConfig, norm: Callable[[int, float], nn.Module] = LayerNorm) -> PostNormLayer:
    """Return one layer; the gate's rows come last in the fused gate and up layer, as in the authors' files."""
    width, activation = config.hidden_size, activation_for(config.hidden_act)
    attention = RotaryAttention(width, config.num_attention_heads, config.head_dim)
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation, down_bias=True, gate_last=True)
    return PostNormLayer(attention, feed_forward, width, config.layer_norm_eps, norm)


def encoder(config: GteConfig) -> Encoder:
    """Return the encoder."""
    layers = [layer(config) for _ in range(config.num_hidden_layers)]
    return Encoder(nomic_bert.embeddings(config), layers, rotary=rotary(config))


_GATED_NAMES = {
    "layers.{i}.mlp.up_proj": "layers.{i}.feed_forward.gate_up#0",
    "layers.{i}.mlp.gate_proj": "layers.{i}.feed_forward.gate_up#1",
    "layers.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
}
# Names in the authors' files (transformers/conversion_mapping.py).
_ALTERNATE_NAMES = {
    "encoder.layer.{i}.attention.qkv_proj": "layers.{i}.attention.qkv",
    "encoder.layer.{i}.attention.o_proj": "layers.{i}.self_attn.o_proj",
    "encoder.layer.{i}.attn_ln": "layers.{i}.post_attention_layernorm",
    "encoder.layer.{i}.mlp_ln": "layers.{i}.post_mlp_layernorm",
    "encoder.layer.{i}.mlp.up_gate_proj": "layers.{i}.feed_forward.gate_up",
    "encoder.layer.{i}.mlp.down_proj": "layers.{i}.mlp.down_proj",
    "lm_head.norm": "lm_head.layer_norm",
}

FAMILY = Family(
    model_type="gte",
    config=GteConfig,
    encoder=encoder,
    names={**nomic_bert.ATTENTION_NAMES, **_GATED_NAMES},
    prefix="gte",
    hf_prefix="Gte",
    tokenizer="XLMRobertaTokenizer",
    pooler=bert.FAMILY.pooler,
    heads={
        # The activation is gelu whatever config.json says (GteLMHead).
        MASKED_LM: masked_lm_head(
            {"lm_head.dense": "dense", "lm_head.layer_norm": "norm"}, "lm_head.decoder", "lm_head.decoder", gelu
        ),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    alternate_names=_ALTERNATE_NAMES,
    alternate_prefixes=("new",),
    base_model_has_pooler=False,
)
