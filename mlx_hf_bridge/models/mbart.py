"""mBART (Liu et al., arXiv 2001.08210); reference: transformers/models/mbart/modeling_mbart.py.

Differs from BART: norms before each block and after the last layers; the decoder starts with the text's last token.
"""

import dataclasses
from functools import partial

from mlx_hf_bridge.models import bart

FAMILY = dataclasses.replace(
    bart.FAMILY,
    model_type="mbart",
    config=bart.Seq2SeqConfig,
    encoder=partial(bart.encoder, shift=bart.shift_last_to_front, norm_first=True),
    names={**bart.NAMES, "encoder.layer_norm": "final_norm", "decoder.layer_norm": "decoder.final_norm"},
    hf_prefix="MBart",
    tokenizer="MBartTokenizer",
)
