"""CamemBERT (Martin et al., arXiv 1911.03894): RoBERTa with a French SentencePiece tokenizer."""

import dataclasses

from mlx_hf_bridge.models import roberta

FAMILY = dataclasses.replace(
    roberta.FAMILY, model_type="camembert", hf_prefix="Camembert", tokenizer="CamembertTokenizer"
)
