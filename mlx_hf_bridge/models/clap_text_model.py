"""CLAP's text encoder (Wu et al., arXiv 2211.06687); reference: transformers/models/clap/modeling_clap.py.

Identical to RoBERTa with its pooler. The projection into the space shared with audio is part of the full model only.
"""

import dataclasses

from mlx_hf_bridge.models import roberta

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="clap_text_model",
    hf_prefix="ClapText",
    prefix="text_model",
    heads={},
)
