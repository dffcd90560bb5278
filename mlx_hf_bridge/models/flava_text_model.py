"""FLAVA's text encoder (Singh et al., arXiv 2112.04482); reference: transformers/models/flava/modeling_flava.py.

Differs from BERT: norms before each block and after the last layer instead of after each block, and no heads. The
embeddings keep their norm.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert


@dataclass(frozen=True)
class FlavaTextConfig(EncoderConfig):
    """BERT's config; attention without biases is unsupported."""

    unsupported_values: ClassVar = {**EncoderConfig.unsupported_values, "qkv_bias": lambda value: value is False}


def encoder(config: FlavaTextConfig) -> Encoder:
    """Return the encoder, whose last norm applies to the output but not to the recorded hidden states."""
    return Encoder(
        bert.embeddings(config),
        bert.pre_norm_layers(config),
        final_norm=bert.layer_norm(config),
        norm_last_hidden_state=False,
    )


NAMES = {
    **{hf.replace(".self.", ".attention."): path for hf, path in bert.PRE_NORM_NAMES.items()},
    "encoder.layer.{i}.layernorm_before": "layers.{i}.attention_norm",
    "encoder.layer.{i}.layernorm_after": "layers.{i}.feed_forward_norm",
    "layernorm": "final_norm",
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="flava_text_model",
    config=FlavaTextConfig,
    encoder=encoder,
    names=NAMES,
    prefix="flava.text_model",
    hf_prefix="FlavaText",
    heads={},
    accepts_inputs_embeds=False,
)
