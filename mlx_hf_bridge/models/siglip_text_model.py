"""SigLIP's text encoder (Zhai et al., arXiv 2303.15343); reference: transformers/models/siglip/modeling_siglip.py.

Differs from CLIP: bidirectional attention, and the text embedding is a linear layer of the last position, padding or
not. Texts must therefore be padded to `max_position_embeddings`, as in training.
"""

import dataclasses
from dataclasses import dataclass, field

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.layers.heads import LastPositionPooler
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.models import clip_text_model as clip


@dataclass(frozen=True, kw_only=True)
class SiglipTextConfig(EncoderConfig):
    """SigLIP's keys: width of the text embedding; no token types."""

    type_vocab_size: int = field(default=0, init=False)
    layer_norm_eps: float = 1e-6
    projection_size: int | None = None


def encoder(config: SiglipTextConfig) -> Encoder:
    """Return CLIP's encoder without the causal mask."""
    return clip.pre_norm_encoder(config, TokenBatch.key_mask)


FAMILY = dataclasses.replace(
    clip.FAMILY,
    model_type="siglip_text_model",
    config=SiglipTextConfig,
    encoder=encoder,
    names={**clip.NAMES, "head": "pooler.out"},
    hf_prefix="SiglipText",
    tokenizer="SiglipTokenizer",
    pooler=lambda config: LastPositionPooler(config.hidden_size, config.projection_size or config.hidden_size),
    base_head=None,
    other_heads=(),
)
