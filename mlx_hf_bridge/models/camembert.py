"""CamemBERT (Martin et al., arXiv 1911.03894); reference: transformers/models/camembert/modeling_camembert.py.

Identical to RoBERTa, with a SentencePiece tokenizer for French.
"""

import dataclasses

from mlx_hf_bridge.models import roberta

FAMILY = dataclasses.replace(
    roberta.FAMILY, model_type="camembert", hf_prefix="Camembert", tokenizer="CamembertTokenizer"
)
