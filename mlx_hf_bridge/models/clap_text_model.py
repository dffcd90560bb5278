"""CLAP's text tower (Wu et al., arXiv 2211.06687); reference: transformers/models/clap.

RoBERTa as it stands, pooler included; the projection beside the sounds belongs to the whole model.
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
