"""CLIPSeg's text tower (Lüddecke and Ecker, arXiv 2112.10003); reference: transformers/models/clipseg.

CLIP's text encoder as it stands, to name what is to be cut out of an image.
"""

import dataclasses

from mlx_hf_bridge.models import clip_text_model

FAMILY = dataclasses.replace(
    clip_text_model.FAMILY,
    model_type="clipseg_text_model",
    hf_prefix="CLIPSegText",
)
