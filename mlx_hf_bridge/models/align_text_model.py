"""ALIGN's text encoder (Jia et al., arXiv 2102.05918); reference: transformers/models/align/modeling_align.py.

Identical to BERT with its pooler. The projection into the space shared with images is part of the full model only.
"""

import dataclasses

from mlx_hf_bridge.models import bert

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="align_text_model",
    prefix="text_model",
    hf_prefix="AlignText",
    heads={},
)
