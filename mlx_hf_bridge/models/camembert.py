"""CamemBERT (Martin et al., arXiv 1911.03894): RoBERTa with a French SentencePiece tokenizer."""

from mlx_hf_bridge.models import roberta

FAMILY = roberta.renamed("camembert", "Camembert", "CamembertTokenizer")
