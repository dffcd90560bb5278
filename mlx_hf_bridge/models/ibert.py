"""I-BERT (Kim et al., arXiv 2101.01321); reference: transformers/models/ibert/modeling_ibert.py.

RoBERTa computed in floats, which is what its checkpoints are trained in; `quant_mode`, its whole numbers, is refused,
and what only they need is left out.
"""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from mlx_hf_bridge.architecture.config import EncoderConfig, OffsetPositionsConfig
from mlx_hf_bridge.models import roberta


@dataclass(frozen=True)
class IBertConfig(OffsetPositionsConfig):
    unsupported_values: ClassVar = {
        **EncoderConfig.unsupported_values,
        "quant_mode": bool,
        "hidden_act": lambda value: value != "gelu",
    }


_OF_WHOLE_NUMBERS = (
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
    ignored_suffixes=(*roberta.FAMILY.ignored_suffixes, *_OF_WHOLE_NUMBERS),
)
