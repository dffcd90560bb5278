"""umT5 (Chung et al., arXiv 2304.09151); reference: transformers/models/umt5/modeling_umt5.py.

Differs from mT5: every layer has its own relative position bias.
"""

import dataclasses
from functools import partial

from mlx_hf_bridge.layers.embeddings import TokenEmbeddings
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.norm import RMSNorm
from mlx_hf_bridge.models import mt5, t5


def encoder(config: t5.T5Config) -> Encoder:
    """Return the encoder, with a position bias in every layer."""
    return Encoder(
        TokenEmbeddings(config.vocab_size, config.hidden_size),
        [t5.layer(config, t5.position_bias(config)) for _ in range(config.num_hidden_layers)],
        final_norm=RMSNorm(config.hidden_size, config.layer_norm_eps),
    )


_BIAS = f"block.{{i}}.{t5.BIAS}", "layers.{i}.position_bias.table"

FAMILY = dataclasses.replace(
    mt5.FAMILY,
    model_type="umt5",
    encoder=encoder,
    names={**t5.LAYER_NAMES, f"encoder.{_BIAS[0]}": _BIAS[1]},
    heads=t5.heads(
        partial(t5.encoder_decoder, own_biases=True),
        {**t5.DECODER_NAMES, f"decoder.{_BIAS[0]}": f"decoder.{_BIAS[1]}"},
    ),
    hf_prefix="UMT5",
    tokenizer="PreTrainedTokenizerFast",
)
