"""CLIPSeg's text encoder (Lüddecke and Ecker, arXiv 2112.10003); reference: models/clipseg/modeling_clipseg.py.

Identical to CLIP's text encoder; here it encodes the description of what to segment.
"""

import dataclasses

from mlx_hf_bridge.models import clip_text_model

FAMILY = dataclasses.replace(
    clip_text_model.FAMILY,
    model_type="clipseg_text_model",
    hf_prefix="CLIPSegText",
)
