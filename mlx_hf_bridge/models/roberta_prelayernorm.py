"""RoBERTa-PreLayerNorm (Ott et al., arXiv 1904.01038); reference: models/roberta_prelayernorm/ of transformers.

Differs from RoBERTa: norms before each block and after the last layer instead of after each block, as with fairseq's
--encoder-normalize-before. The embeddings keep their norm.
"""

import dataclasses

from mlx_hf_bridge.architecture.config import OffsetPositionsConfig
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert, roberta


def encoder(config: OffsetPositionsConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        bert.embeddings(config, pad_token_id=config.padding_idx),
        bert.pre_norm_layers(config),
        final_norm=bert.layer_norm(config),
    )


NAMES = {
    **bert.PRE_NORM_NAMES,
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
