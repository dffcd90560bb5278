"""mBART (Liu et al., arXiv 2001.08210); reference: transformers/models/mbart/modeling_mbart.py.

Differs from BART: norms before each block and after the last layers; the decoder starts with the text's last token.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from mlx_hf_bridge.models import bart


@dataclass(frozen=True, kw_only=True)
class MBartConfig(bart.BartConfig):
    """BART's keys; the decoder's start token is not read."""

    default_labels: ClassVar[int] = 2


FAMILY = dataclasses.replace(
    bart.FAMILY,
    model_type="mbart",
    config=MBartConfig,
    encoder=partial(bart.encoder, shift=bart.shift_last_to_front, norm_first=True),
    names={**bart.NAMES, "encoder.layer_norm": "final_norm", "decoder.layer_norm": "decoder.final_norm"},
    hf_prefix="MBart",
    tokenizer="MBartTokenizer",
)
