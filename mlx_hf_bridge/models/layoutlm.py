"""LayoutLM (Xu et al., arXiv 1912.13318); reference: transformers/models/layoutlm/modeling_layoutlm.py.

Differs from BERT: embeddings of each token's box on a page (`bbox`) are added: of its coordinates, its width and its
height. Without boxes all of these are 0, as in transformers.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.model_inputs import ModelInput
from mlx_hf_bridge.errors import TokenRangeError
from mlx_hf_bridge.layers.embeddings import ExtraEmbedding
from mlx_hf_bridge.layers.encoder import Encoder
from mlx_hf_bridge.models import bert

_INPUT = "bbox"
# What each table is read for, in boxes (x0, y0, x1, y1): x for left and right, y for top and bottom, height and width.
_LOOKUPS: dict[str, tuple[Callable[[mx.array], mx.array], ...]] = {
    "x": (lambda boxes: boxes[..., 0], lambda boxes: boxes[..., 2]),
    "y": (lambda boxes: boxes[..., 1], lambda boxes: boxes[..., 3]),
    "h": (lambda boxes: boxes[..., 3] - boxes[..., 1],),
    "w": (lambda boxes: boxes[..., 2] - boxes[..., 0],),
}


def check_boxes(boxes: np.ndarray) -> None:
    """Check that boxes have no negative width or height, which would be looked up outside of the tables.

    Args:
        boxes: (x0, y0, x1, y1) of each token, (B, L, 4).

    Raises:
        TokenRangeError: If x1 is less than x0, or y1 than y0.
    """
    wrong = (boxes[..., 2:] < boxes[..., :2]).any(axis=-1)
    if wrong.any():
        raise TokenRangeError(
            f"bbox has a box {boxes[wrong][0].tolist()}, expected (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1. "
            "Order the corners."
        )


def box_input(rows: int) -> ModelInput:
    """Return the argument `bbox`, boxes (B, L, 4) with coordinates below `rows`."""
    return ModelInput(rows, ("B", "L", 4), "max_2d_position_embeddings", check=check_boxes)


@dataclass(frozen=True, kw_only=True)
class LayoutLMConfig(EncoderConfig):
    """LayoutLM's key: rows of the coordinate tables."""

    max_2d_position_embeddings: int

    @property
    def extra_inputs(self) -> dict[str, ModelInput]:
        """The boxes."""
        return {_INPUT: box_input(self.max_2d_position_embeddings)}


def encoder(config: LayoutLMConfig) -> Encoder:
    """Return the encoder, which adds the embeddings of boxes."""
    rows, width = config.max_2d_position_embeddings, config.hidden_size
    boxes = {axis: ExtraEmbedding(rows, width, _INPUT, len(lookups), lookups) for axis, lookups in _LOOKUPS.items()}
    return Encoder(bert.embeddings(config, extra=boxes), bert.layers(config))


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="layoutlm",
    config=LayoutLMConfig,
    encoder=encoder,
    names={
        **bert.NAMES,
        **{f"embeddings.{axis}_position_embeddings": f"embeddings.extra.{axis}" for axis in _LOOKUPS},
    },
    prefix="layoutlm",
    hf_prefix="LayoutLM",
    heads={
        task: bert.FAMILY.heads[task]
        for task in (MASKED_LM, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
    },
)
