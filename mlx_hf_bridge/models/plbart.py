"""PLBART (Ahmad et al., arXiv 2103.06333); reference: transformers/models/plbart/modeling_plbart.py.

Differs from BART: the decoder starts with the text's last token, as in mBART; token embeddings are scaled by default.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial

from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.models import bart


@dataclass(frozen=True, kw_only=True)
class PLBartConfig(bart.Seq2SeqConfig):
    """BART's keys without the decoder's start token."""

    scale_embedding: bool = True


FAMILY = dataclasses.replace(
    bart.FAMILY,
    model_type="plbart",
    config=PLBartConfig,
    encoder=partial(bart.encoder, shift=bart.shift_last_to_front),
    hf_prefix="PLBart",
    tokenizer="PLBartTokenizer",
    heads={SEQUENCE_CLASSIFICATION: bart.FAMILY.heads[SEQUENCE_CLASSIFICATION]},
)
