"""MetaCLIP 2's text tower (Chuang et al., arXiv 2507.22062); reference: transformers/models/metaclip_2.

CLIP's text encoder as it stands, on texts of many languages.
"""

import dataclasses

from mlx_hf_bridge.models import clip_text_model

FAMILY = dataclasses.replace(
    clip_text_model.FAMILY,
    model_type="metaclip_2_text_model",
    hf_prefix="MetaClip2Text",
)
