"""Megatron-BERT (Shoeybi et al., arXiv 1909.08053); reference: models/megatron_bert/modeling_megatron_bert.py.

Differs from BERT: norms before each block and after the last layer instead of after each block and the embeddings.
"""

import dataclasses

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert


def encoder(config: EncoderConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        bert.embeddings(config, normed=False), bert.pre_norm_layers(config), final_norm=bert.layer_norm(config)
    )


NAMES = {
    **{hf: path for hf, path in bert.PRE_NORM_NAMES.items() if path != "embeddings.norm"},
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
