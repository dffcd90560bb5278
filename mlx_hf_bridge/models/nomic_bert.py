"""NomicBERT (Nussbaum et al., arXiv 2402.01613); reference: transformers/models/nomic_bert/modeling_nomic_bert.py.

Differs from BERT: rotary positions, a gated feed-forward block, and no biases in the layers' linear layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from mlx_hf_bridge.architecture.family import MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Family
from mlx_hf_bridge.architecture.heads import POOLED_SEQUENCE_HEAD, TOKEN_HEAD, masked_lm_head
from mlx_hf_bridge.architecture.rope import RotaryConfig, rotary
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.embeddings import NormalizedEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.models import bert

# Keys of the authors' remote code -> transformers' keys, from memory of that code; transformers has no such table.
_OLD_KEYS = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "rotary_emb_base": "rope_theta",
    "rotary_emb_fraction": "partial_rotary_factor",
}
# The authors' name of a gated feed-forward block with silu.
_OLD_ACTIVATIONS = {"swiglu": "silu"}


@dataclass(frozen=True, kw_only=True)
class NomicBertConfig(RotaryConfig):
    """Rotary config with NomicBERT's default base; the variants of the authors' code are unsupported."""

    default_theta: ClassVar = 1000.0
    unsupported_values: ClassVar = {
        **RotaryConfig.unsupported_values,
        "prenorm": bool,
        "use_rms_norm": bool,
        "rotary_emb_interleaved": bool,
        "qkv_proj_bias": bool,
        "mlp_fc1_bias": bool,
        "mlp_fc2_bias": bool,
        "activation_function": lambda value: value not in _OLD_ACTIVATIONS,
    }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Return the config of a parsed config.json, which may have the keys of the authors' remote code."""
        renamed = {new: raw[old] for old, new in _OLD_KEYS.items() if old in raw}
        if activation := _OLD_ACTIVATIONS.get(str(raw.get("activation_function"))):
            renamed["hidden_act"] = activation
        return super().from_json({**renamed, **raw})


def embeddings(config: RotaryConfig) -> NormalizedEmbeddings:
    """Return the embeddings: tokens and token types, then a norm."""
    norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
    return NormalizedEmbeddings(config.vocab_size, config.hidden_size, norm, config.type_vocab_size)


def layer(config: NomicBertConfig) -> PostNormLayer:
    """Return one layer."""
    width, activation = config.hidden_size, activation_for(config.hidden_act)
    attention = RotaryAttention(width, config.num_attention_heads, config.head_dim, bias=False)
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation)
    return PostNormLayer(attention, feed_forward, width, config.layer_norm_eps)


def encoder(config: NomicBertConfig) -> Encoder:
    """Return the encoder."""
    layers = [layer(config) for _ in range(config.num_hidden_layers)]
    return Encoder(embeddings(config), layers, rotary=rotary(config))


ATTENTION_NAMES = {
    "embeddings.word_embeddings": "embeddings.word",
    "embeddings.token_type_embeddings": "embeddings.token_type",
    "embeddings.LayerNorm": "embeddings.norm",
    "layers.{i}.self_attn.q_proj": "layers.{i}.attention.qkv#0",
    "layers.{i}.self_attn.k_proj": "layers.{i}.attention.qkv#1",
    "layers.{i}.self_attn.v_proj": "layers.{i}.attention.qkv#2",
    "layers.{i}.self_attn.o_proj": "layers.{i}.attention.out",
    "layers.{i}.post_attention_layernorm": "layers.{i}.attention_norm",
    "layers.{i}.post_mlp_layernorm": "layers.{i}.feed_forward_norm",
    "pooler.dense": "pooler.dense",
}
_GATED_NAMES = {
    "layers.{i}.mlp.gate_proj": "layers.{i}.feed_forward.gate_up#0",
    "layers.{i}.mlp.up_proj": "layers.{i}.feed_forward.gate_up#1",
    "layers.{i}.mlp.down_proj": "layers.{i}.feed_forward.down",
}
# Names in the authors' files (transformers/conversion_mapping.py).
_ALTERNATE_NAMES = {
    "emb_ln": "embeddings.LayerNorm",
    "encoder.layers.{i}.attn.Wqkv": "layers.{i}.attention.qkv",
    "encoder.layers.{i}.attn.out_proj": "layers.{i}.self_attn.o_proj",
    "encoder.layers.{i}.norm1": "layers.{i}.post_attention_layernorm",
    "encoder.layers.{i}.norm2": "layers.{i}.post_mlp_layernorm",
    "encoder.layers.{i}.mlp.fc11": "layers.{i}.mlp.up_proj",
    "encoder.layers.{i}.mlp.fc12": "layers.{i}.mlp.gate_proj",
    "encoder.layers.{i}.mlp.fc2": "layers.{i}.mlp.down_proj",
}

FAMILY = Family(
    model_type="nomic_bert",
    config=NomicBertConfig,
    encoder=encoder,
    names={**ATTENTION_NAMES, **_GATED_NAMES},
    prefix="nomic_bert",
    hf_prefix="NomicBert",
    tokenizer="BertTokenizer",
    pooler=bert.FAMILY.pooler,
    heads={
        MASKED_LM: masked_lm_head(
            {"cls.predictions.transform.dense": "dense", "cls.predictions.transform.layer_norm": "norm"},
            "cls.predictions",
            "cls.predictions.decoder",
        ),
        SEQUENCE_CLASSIFICATION: POOLED_SEQUENCE_HEAD,
        TOKEN_CLASSIFICATION: TOKEN_HEAD,
    },
    alternate_names=_ALTERNATE_NAMES,
    alternate_prefixes=("bert",),
    base_model_has_pooler=False,
)
