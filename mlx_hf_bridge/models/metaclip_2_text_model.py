"""MetaCLIP 2's text encoder (Chuang et al., arXiv 2507.22062); reference: models/metaclip_2/modeling_metaclip_2.py.

CLIP's text encoder, trained on texts in many languages; its end-of-text token does have the id 2.
"""

import dataclasses

from mlx_hf_bridge.layers.heads import EOSPooler
from mlx_hf_bridge.models import clip_text_model

FAMILY = dataclasses.replace(
    clip_text_model.FAMILY,
    model_type="metaclip_2_text_model",
    hf_prefix="MetaClip2Text",
    pooler=lambda config: EOSPooler(config.eos_token_id, has_legacy_id=False),
)
