"""The models of sentence-transformers computed with MLX; neither torch nor sentence-transformers is needed.

Importing this package also adds backend="mlx" to the classes of sentence-transformers itself, as soon as that package
is imported.
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
