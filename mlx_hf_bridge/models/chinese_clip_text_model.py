"""Chinese CLIP's text tower (Yang et al., arXiv 2211.01335); reference: transformers/models/chinese_clip.

BERT as it stands, pooler included; the projection beside the image tower belongs to the whole model.
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
