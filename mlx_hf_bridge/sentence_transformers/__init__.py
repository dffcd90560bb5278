"""sentence-transformers' models on MLX, without torch and without sentence-transformers."""

from mlx_hf_bridge.sentence_transformers.model import MLXSentenceTransformer

__all__ = ["MLXSentenceTransformer"]
