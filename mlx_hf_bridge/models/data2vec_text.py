"""data2vec's text model (Baevski et al., arXiv 2202.03555); reference: models/data2vec/modeling_data2vec_text.py.

Identical to RoBERTa; checkpoints have another prefix.
"""

import dataclasses

from mlx_hf_bridge.models import roberta

FAMILY = dataclasses.replace(
    roberta.FAMILY, model_type="data2vec-text", prefix="data2vec_text", hf_prefix="Data2VecText"
)
