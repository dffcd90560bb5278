"""sentence-transformers' models on MLX, without torch and without sentence-transformers."""

from mlx_hf_bridge.sentence_transformers.model import MLXSentenceTransformer
from mlx_hf_bridge.sentence_transformers.nearest import cos_sim, dot_score
from mlx_hf_bridge.sentence_transformers.retrieval import (
    community_detection,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
)

__all__ = [
    "MLXSentenceTransformer",
    "community_detection",
    "cos_sim",
    "dot_score",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "semantic_search",
]
