"""Jina Embeddings v3 (Sturua et al., arXiv 2409.10173); reference: models/jina_embeddings_v3/ of transformers.

Differs from NomicBERT: biases in all linear layers, BERT's feed-forward block, XLM-RoBERTa's heads. The task-specific
LoRA weights are not part of transformers' class; checkpoints ship them as adapters.
"""

from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.family import MULTIPLE_CHOICE, Family
from mlx_hf_bridge.architecture.rope import RotaryConfig, rotary
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.encoder import Encoder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.rotary_attention import RotaryAttention
from mlx_hf_bridge.models import bert, nomic_bert, roberta


@dataclass(frozen=True, kw_only=True)
class JinaEmbeddingsV3Config(RotaryConfig):
    """Rotary config with Jina Embeddings v3's default base."""

    default_theta: ClassVar = 20_000.0


def layer(config: JinaEmbeddingsV3Config) -> PostNormLayer:
    """Return one layer."""
    width, activation = config.hidden_size, activation_for(config.hidden_act)
    attention = RotaryAttention(width, config.num_attention_heads, config.head_dim)
    return PostNormLayer(
        attention, FeedForward(width, config.intermediate_size, activation), width, config.layer_norm_eps
    )


def encoder(config: JinaEmbeddingsV3Config) -> Encoder:
    """Return the encoder."""
    layers = [layer(config) for _ in range(config.num_hidden_layers)]
    return Encoder(nomic_bert.embeddings(config), layers, rotary=rotary(config))


_BLOCK_NAMES = {
    "layers.{i}.mlp.fc1": "layers.{i}.feed_forward.up",
    "layers.{i}.mlp.fc2": "layers.{i}.feed_forward.down",
}
# Names in the authors' files (transformers/conversion_mapping.py).
_ALTERNATE_NAMES = {
    "emb_ln": "embeddings.LayerNorm",
    "encoder.layers.{i}.mixer.Wqkv": "layers.{i}.attention.qkv",
    "encoder.layers.{i}.mixer.out_proj": "layers.{i}.self_attn.o_proj",
    "encoder.layers.{i}.norm1": "layers.{i}.post_attention_layernorm",
    "encoder.layers.{i}.norm2": "layers.{i}.post_mlp_layernorm",
    "encoder.layers.{i}.mlp.fc1": "layers.{i}.mlp.fc1",
    "encoder.layers.{i}.mlp.fc2": "layers.{i}.mlp.fc2",
}

FAMILY = Family(
    model_type="jina_embeddings_v3",
    config=JinaEmbeddingsV3Config,
    encoder=encoder,
    names={**nomic_bert.ATTENTION_NAMES, **_BLOCK_NAMES},
    prefix="roberta",
    hf_prefix="JinaEmbeddingsV3",
    tokenizer="XLMRobertaTokenizer",
    pooler=bert.FAMILY.pooler,
    heads={task: head for task, head in roberta.HEADS.items() if task != MULTIPLE_CHOICE},
    alternate_names=_ALTERNATE_NAMES,
)
