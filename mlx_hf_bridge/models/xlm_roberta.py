"""XLM-RoBERTa (Conneau et al., arXiv 1911.02116); reference: models/xlm_roberta/modeling_xlm_roberta.py.

Identical to RoBERTa, with a SentencePiece tokenizer for 100 languages.
"""

import dataclasses

from mlx_hf_bridge.models import roberta

# Names in files of Jina AI's own code (jina-reranker-v2), with queries, keys and values in one tensor.
_ALTERNATE_NAMES = {
    "emb_ln": "embeddings.LayerNorm",
    "encoder.layers.{i}.mixer.Wqkv": "layers.{i}.attention.qkv",
    "encoder.layers.{i}.mixer.out_proj": "encoder.layer.{i}.attention.output.dense",
    "encoder.layers.{i}.norm1": "encoder.layer.{i}.attention.output.LayerNorm",
    "encoder.layers.{i}.mlp.fc1": "encoder.layer.{i}.intermediate.dense",
    "encoder.layers.{i}.mlp.fc2": "encoder.layer.{i}.output.dense",
    "encoder.layers.{i}.norm2": "encoder.layer.{i}.output.LayerNorm",
}

FAMILY = dataclasses.replace(
    roberta.FAMILY,
    model_type="xlm-roberta",
    hf_prefix="XLMRoberta",
    tokenizer="XLMRobertaTokenizer",
    alternate_names=_ALTERNATE_NAMES,
)
