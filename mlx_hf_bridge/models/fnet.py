"""FNet (Lee-Thorp et al., arXiv 2105.03824); reference: transformers/models/fnet/modeling_fnet.py.

Differs from BERT: a Fourier transform instead of attention, and a linear layer after the embeddings. There is no
attention mask, so padding changes the outputs, as it does in transformers.
"""

import dataclasses
from dataclasses import dataclass, field

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.layers.activations import activation_for
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.feed_forward import FeedForward
from mlx_hf_bridge.layers.fourier import FourierLayer
from mlx_hf_bridge.layers.linear import Linear
from mlx_hf_bridge.models import bert


@dataclass(frozen=True, kw_only=True)
class FNetConfig(EncoderConfig):
    """BERT's config without attention heads."""

    num_attention_heads: int = field(default=1, init=False)


def layer(config: FNetConfig) -> FourierLayer:
    """Return one layer: Fourier transform and feed-forward block, each followed by a residual sum and a norm."""
    feed_forward = FeedForward(config.hidden_size, config.intermediate_size, activation_for(config.hidden_act))
    return FourierLayer(feed_forward, config.hidden_size, config.layer_norm_eps)


def encoder(config: FNetConfig) -> Encoder:
    """Return the encoder."""
    return Encoder(
        bert.embeddings(config),
        [layer(config) for _ in range(config.num_hidden_layers)],
        projection=Linear(config.hidden_size, config.hidden_size),
    )


NAMES = {
    **bert.EMBEDDING_NAMES,
    "embeddings.projection": "projection",
    "encoder.layer.{i}.fourier.output.LayerNorm": "layers.{i}.mixing_norm",
    "encoder.layer.{i}.intermediate.dense": "layers.{i}.feed_forward.up",
    "encoder.layer.{i}.output.dense": "layers.{i}.feed_forward.down",
    "encoder.layer.{i}.output.LayerNorm": "layers.{i}.feed_forward_norm",
    "pooler.dense": "pooler.dense",
}

FAMILY = dataclasses.replace(
    bert.FAMILY,
    length_dependent=True,
    model_type="fnet",
    config=FNetConfig,
    encoder=encoder,
    names=NAMES,
    prefix="fnet",
    hf_prefix="FNet",
    tokenizer="FNetTokenizer",
)
