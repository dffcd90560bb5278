"""XLM-RoBERTa (Conneau et al., arXiv 1911.02116); reference: models/xlm_roberta/modeling_xlm_roberta.py.

Identical to RoBERTa, with a SentencePiece tokenizer for 100 languages.
"""

import dataclasses

from mlx_hf_bridge.models import roberta

FAMILY = dataclasses.replace(
    roberta.FAMILY, model_type="xlm-roberta", hf_prefix="XLMRoberta", tokenizer="XLMRobertaTokenizer"
)
