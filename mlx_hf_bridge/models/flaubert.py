"""FlauBERT (Le et al., arXiv 1912.05372); reference: transformers/models/flaubert/modeling_flaubert.py.

Identical to XLM, trained on French. `pre_norm=true` is not supported; transformers itself fails on it.
"""

import dataclasses

from mlx_hf_bridge.models import xlm

FAMILY = dataclasses.replace(xlm.FAMILY, model_type="flaubert", hf_prefix="Flaubert", tokenizer="FlaubertTokenizer")
