"""XLM-RoBERTa (Conneau et al., arXiv 1911.02116): RoBERTa with a SentencePiece tokenizer of 100 languages."""

import dataclasses

from mlx_hf_bridge.models import roberta

FAMILY = dataclasses.replace(
    roberta.FAMILY, model_type="xlm-roberta", hf_prefix="XLMRoberta", tokenizer="XLMRobertaTokenizer"
)
