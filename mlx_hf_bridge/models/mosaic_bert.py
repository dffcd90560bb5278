"""MosaicBERT (Portes et al., arXiv 2312.17482), model_type "bert"; reference: the paper and its checkpoints' configs.

DNABERT-2 (Zhou et al., arXiv 2306.15006) is one. Differs from BERT: linear biases by distance (ALiBi) instead of
positions, a gated feed-forward block, queries, keys and values in one matrix, and zeros at padding, since padded
positions are not computed.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.alibi import AlibiAttention, LinearBias
from mlx_hf_bridge.layers.encoder import Encoder, OutputRecorder, PostNormLayer
from mlx_hf_bridge.layers.feed_forward import GatedFeedForward
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import bert, jina_bert


@dataclass(frozen=True)
class MosaicBertConfig(jina_bert.AlibiConfig):
    """Config of MosaicBERT; its files have BERT's `position_embedding_type`, which has no effect."""

    unsupported_values: ClassVar = {
        **jina_bert.AlibiConfig.unsupported_values,
        "position_embedding_type": lambda value: value not in (None, "absolute"),
    }


class UnpaddedEncoder(Encoder):
    """An encoder that returns zeros at padded positions, as if it computed the real tokens only."""

    def __call__(self, batch: TokenBatch, recorder: OutputRecorder, first_token: bool = False) -> mx.array:
        hidden = super().__call__(batch, recorder, first_token)
        return hidden if batch.mask is None else hidden * batch.token_mask(hidden.dtype)[:, : hidden.shape[1]]


def layer(config: MosaicBertConfig) -> PostNormLayer:
    """Return one layer."""
    width = config.hidden_size
    feed_forward = GatedFeedForward(width, config.intermediate_size, activation_for("gelu"), down_bias=True)
    return PostNormLayer(AlibiAttention(width, config.num_attention_heads), feed_forward, width, config.layer_norm_eps)


def encoder(config: MosaicBertConfig) -> Encoder:
    """Return the encoder."""
    layers = [layer(config) for _ in range(config.num_hidden_layers)]
    return UnpaddedEncoder(jina_bert.embeddings(config), layers, position_bias=LinearBias(config.slopes))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="mosaic_bert",
    config=MosaicBertConfig,
    encoder=encoder,
    names={
        **jina_bert.EMBEDDING_NAMES,
        "encoder.layer.{i}.attention.self.Wqkv": "layers.{i}.attention.qkv",
        "encoder.layer.{i}.attention.output.dense": "layers.{i}.attention.out",
        "encoder.layer.{i}.attention.output.LayerNorm": "layers.{i}.attention_norm",
        **jina_bert.GATED_NAMES,
        "pooler.dense": "pooler.dense",
    },
    hf_prefix="MosaicBert",
    in_transformers=False,
)
