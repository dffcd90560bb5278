"""Chinese CLIP's text encoder (Yang et al., arXiv 2211.01335); reference: models/chinese_clip/modeling_chinese_clip.py.

Identical to BERT with its pooler. The projection into the space shared with images is part of the full model only.
"""

import dataclasses

from mlx_hf_bridge.models import bert

FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="chinese_clip_text_model",
    prefix="text_model",
    hf_prefix="ChineseCLIPText",
    heads={},
)
