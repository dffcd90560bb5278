"""KeyBERT: a BaseEmbedder (keybert.backend)."""

import numpy as np
from keybert.backend import BaseEmbedder

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXBackend(BaseEmbedder):
    """KeyBERT(model=MLXBackend(model))."""

    def __init__(self, model: MLXSentenceTransformer) -> None:
        super().__init__()
        self.embedding_model = model

    def embed(self, documents: list[str], verbose: bool = False) -> np.ndarray:
        """Documents or words -> (n, V)."""
        vectors: np.ndarray = self.embedding_model.encode(list(documents), show_progress_bar=verbose)
        return vectors
