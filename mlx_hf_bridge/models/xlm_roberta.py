"""XLM-RoBERTa (Conneau et al., arXiv 1911.02116): RoBERTa with a SentencePiece tokenizer of 100 languages."""

from mlx_hf_bridge.models import roberta

FAMILY = roberta.renamed("xlm-roberta", "XLMRoberta", "XLMRobertaTokenizer")
