"""ALIGN's text tower (Jia et al., arXiv 2102.05918); reference: transformers/models/align.

BERT as it stands, pooler included; the projection beside the image tower belongs to the whole model.
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
