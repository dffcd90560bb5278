"""LayoutLM (Xu et al., arXiv 1912.13318); reference: transformers/models/layoutlm/modeling_layoutlm.py.

Differs from BERT: embeddings of each token's box on a page are added. Boxes (`bbox`) are not supported; as in
transformers without them, all coordinates, heights and widths are 0.
"""

import dataclasses
from dataclasses import dataclass

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.layers.embeddings import ExtraEmbedding
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert

# How often each table is added: x for left and right, y for top and bottom, height and width once.
_TIMES = {"x": 2, "y": 2, "h": 1, "w": 1}


@dataclass(frozen=True, kw_only=True)
class LayoutLMConfig(EncoderConfig):
    """LayoutLM's key: rows of the coordinate tables."""

    max_2d_position_embeddings: int


def encoder(config: LayoutLMConfig) -> Encoder:
    """Return the encoder, which adds the embeddings of coordinate 0."""
    rows, width = config.max_2d_position_embeddings, config.hidden_size
    boxes = {axis: ExtraEmbedding(rows, width, default_count=times) for axis, times in _TIMES.items()}
    return Encoder(bert.embeddings(config, extra=boxes), bert.layers(config))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="layoutlm",
    config=LayoutLMConfig,
    encoder=encoder,
    names={
        **bert.NAMES,
        **{f"embeddings.{axis}_position_embeddings": f"embeddings.extra.{axis}" for axis in _TIMES},
    },
    prefix="layoutlm",
    hf_prefix="LayoutLM",
    heads={
        task: bert.FAMILY.heads[task]
        for task in (MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
    },
)
