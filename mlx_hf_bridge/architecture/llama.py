"""Config, layer and module names of Llama-style encoders: RMSNorm, rotary positions, grouped-query attention, a gate.

EuroBERT, Qwen2 and Qwen3 are built from it (Touvron et al., arXiv 2302.13971; Ainslie et al., arXiv 2305.13245).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import mlx.nn as nn

from mlx_hf_bridge.architecture.rope import RotaryConfig
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention


@dataclass(frozen=True, kw_only=True)
class GroupedQueryConfig(RotaryConfig):
    """Config of Llama-style models: RMSNorm, rotary positions and grouped-query attention.

    Attributes:
        num_key_value_heads: Heads of keys and values, each shared by several query heads; None = as many as queries.
        attention_bias: Whether the attention's linear layers have biases.
        out_bias: Class variable, whether the attention's output layer has one; None for `attention_bias`.
    """

    type_vocab_size: int = field(default=0, init=False)
    tie_word_embeddings: bool = False
    num_key_value_heads: int | None = None
    attention_bias: bool = False

    attribute_map: ClassVar = {"layer_norm_eps": "rms_norm_eps"}
    out_bias: ClassVar[bool | None] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_attention_heads % self.num_kv_heads:
            raise ConfigError(
                f"config.json has num_key_value_heads={self.num_kv_heads} for num_attention_heads="
                f"{self.num_attention_heads}; the second must be a multiple of the first. Take the original file."
            )

    @property
    def num_kv_heads(self) -> int:
        """Number of key and value heads."""
        return self.num_key_value_heads or self.num_attention_heads


NAMES = {
    "embed_tokens": "embeddings.word",
    "layers.{i}.self_attn.q_proj": "layers.{i}.attention.query",
    "layers.{i}.self_attn.k_proj": "layers.{i}.attention.kv#0",
    "layers.{i}.self_attn.v_proj": "layers.{i}.attention.kv#1",
    "layers.{i}.self_attn.o_proj": "layers.{i}.attention.out",
    "layers.{i}.input_layernorm": "layers.{i}.attention_norm",
    "layers.{i}.mlp.gate_proj": "layers.{i}.feed_forward.gate_up#0",
    "layers.{i}.mlp.up_proj": "layers.{i}.feed_forward.gate_up#1",
    "layers.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
    "layers.{i}.post_attention_layernorm": "layers.{i}.feed_forward_norm",
    "norm": "final_norm",
}


def layer(
    config: GroupedQueryConfig,
    mlp_bias: bool = False,
    query_norm: nn.Module | None = None,
    key_norm: nn.Module | None = None,
) -> PreNormLayer:
    """Return one layer: RMSNorm and attention, then RMSNorm and a gated feed-forward block.

    Args:
        config: The model's config.
        mlp_bias: Whether the feed-forward block's linear layers have biases.
        query_norm: Norm of each head's queries before the rotation; None = no norm.
        key_norm: Norm of each head's keys before the rotation; None = no norm.

    Returns:
        The layer.
    """
    width, eps = config.hidden_size, config.layer_norm_eps
    attention = RotaryAttention(
        width,
        config.num_attention_heads,
        config.head_dim,
        config.num_kv_heads,
        config.attention_bias,
        config.out_bias,
        query_norm=query_norm,
        key_norm=key_norm,
    )
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation_for(config.hidden_act), mlp_bias)
    return PreNormLayer(attention, RMSNorm(width, eps), feed_forward, RMSNorm(width, eps))
