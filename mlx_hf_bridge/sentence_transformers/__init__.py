"""sentence-transformers' models on MLX, without torch and without sentence-transformers.

Importing this also adds backend="mlx" to sentence-transformers' own classes, as soon as that package is imported.
"""

from mlx_hf_bridge.sentence_transformers.backend.patch import install
from mlx_hf_bridge.sentence_transformers.cross_encoder import MLXCrossEncoder
from mlx_hf_bridge.sentence_transformers.multi_vector_encoder import MLXMultiVectorEncoder
from mlx_hf_bridge.sentence_transformers.scoring.nearest import cos_sim, dot_score
from mlx_hf_bridge.sentence_transformers.scoring.retrieval import (
    community_detection,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
)
from mlx_hf_bridge.sentence_transformers.sentence_transformer import MLXSentenceTransformer
from mlx_hf_bridge.sentence_transformers.sparse_encoder import MLXSparseEncoder

install()

__all__ = [
    "MLXCrossEncoder",
    "MLXMultiVectorEncoder",
    "MLXSentenceTransformer",
    "MLXSparseEncoder",
    "community_detection",
    "cos_sim",
    "dot_score",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "semantic_search",
]
