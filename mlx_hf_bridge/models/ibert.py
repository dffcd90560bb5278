"""I-BERT (Kim et al., arXiv 2101.01321); reference: transformers/models/ibert/modeling_ibert.py.

Identical to RoBERTa in float arithmetic, in which its checkpoints are trained. Integer arithmetic (`quant_mode=true`)
is not supported, and the tensors that only it needs are dropped.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig, OffsetPositionsConfig
from mlx_hf_bridge.models import roberta


@dataclass(frozen=True)
class IBertConfig(OffsetPositionsConfig):
    """RoBERTa's config; integer arithmetic is unsupported."""

    unsupported_values: ClassVar = {
        **EncoderConfig.unsupported_values,
        "quant_mode": bool,
        "hidden_act": lambda value: value != "gelu",
    }


_QUANT_MODE_BUFFERS = (
    "weight_integer",
    "bias_integer",
    "weight_scaling_factor",
    "fc_scaling_factor",
    "act_scaling_factor",
    "x_min",
    "x_max",
    "LayerNorm.shift",
)

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="ibert",
    config=IBertConfig,
    prefix="ibert",
    hf_prefix="IBert",
    ignored_suffixes=(*roberta.FAMILY.ignored_suffixes, *_QUANT_MODE_BUFFERS),
)
