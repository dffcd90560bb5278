"""RoBERTa of fairseq's --encoder-normalize-before; reference: models/roberta_prelayernorm/ of transformers.

RoBERTa that normalises before each block and after the last layer (Ott et al., arXiv 1904.01038), its embeddings too.
"""

import dataclasses

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert, megatron_bert, roberta


def encoder(config: OffsetPositionsConfig) -> Encoder:
    return Encoder(
        bert.embeddings(config, pad_token_id=config.padding_idx),
        megatron_bert.pre_norm_layers(config),
        final_norm=megatron_bert.norm(config),
    )


NAMES = {
    **megatron_bert.PRE_NORM_NAMES,
    "encoder.layer.{i}.attention.LayerNorm": "layers.{i}.attention_norm",
    "encoder.layer.{i}.intermediate.LayerNorm": "layers.{i}.feed_forward_norm",
    "LayerNorm": "final_norm",
}

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="roberta-prelayernorm",
    encoder=encoder,
    names=NAMES,
    prefix="roberta_prelayernorm",
    hf_prefix="RobertaPreLayerNorm",
)
