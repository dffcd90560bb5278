"""SigLIP 2's text encoder (Tschannen et al., arXiv 2502.14786); reference: models/siglip2/modeling_siglip2.py.

Identical to SigLIP's text encoder, with Gemma's tokenizer.
"""

import dataclasses

from mlx_hf_bridge.models import siglip_text_model as siglip

FAMILY = dataclasses.replace(
    siglip.FAMILY, model_type="siglip2_text_model", hf_prefix="Siglip2Text", tokenizer="GemmaTokenizer"
)
