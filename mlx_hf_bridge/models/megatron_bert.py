"""Megatron-BERT (Shoeybi et al., arXiv 1909.08053); reference: models/megatron_bert/modeling_megatron_bert.py.

BERT that normalises before each block and after the last layer, and not its embeddings.
"""

import dataclasses

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.layers.attention import Attention
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward, activation_for
from mlx_hf_bridge.layers.norm import LayerNorm
from mlx_hf_bridge.layers.pre_norm import PreNormLayer
from mlx_hf_bridge.models import bert


def norm(config: EncoderConfig) -> LayerNorm:
    return LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


def pre_norm_layers(config: EncoderConfig) -> list[PreNormLayer]:
    """A layer for each step, of BERT's blocks."""
    width, activation = config.hidden_size, activation_for(config.hidden_act)
    return [
        PreNormLayer(
            Attention(width, config.num_attention_heads),
            norm(config),
            FeedForward(width, config.intermediate_size, activation),
            norm(config),
        )
        for _ in range(config.num_hidden_layers)
    ]


def encoder(config: EncoderConfig) -> Encoder:
    return Encoder(bert.embeddings(config, normed=False), pre_norm_layers(config), final_norm=norm(config))


# Where BERT has a norm after each block, it has none; its own stand elsewhere.
PRE_NORM_NAMES = {hf: ours for hf, ours in bert.NAMES.items() if not ours.endswith("_norm")}
NAMES = {
    **{hf: ours for hf, ours in PRE_NORM_NAMES.items() if ours != "embeddings.norm"},
    "encoder.layer.{i}.attention.ln": "layers.{i}.attention_norm",
    "encoder.layer.{i}.ln": "layers.{i}.feed_forward_norm",
    "encoder.ln": "final_norm",
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="megatron-bert",
    encoder=encoder,
    names=NAMES,
    hf_prefix="MegatronBert",
)
