"""Use MLX embeddings in BERTopic: a bertopic.backend.BaseEmbedder."""

import numpy as np
from bertopic.backend import BaseEmbedder

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXBackend(BaseEmbedder):
    """A BERTopic embedder that computes with MLX.

    Args:
        model: The embedding model.

    Example:
        >>> from bertopic import BERTopic
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.bertopic import MLXBackend
        >>> model = MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> topics = BERTopic(embedding_model=MLXBackend(model))
    """

    def __init__(self, model: MLXSentenceTransformer) -> None:
        super().__init__()
        self.embedding_model = model

    def embed(self, documents: list[str], verbose: bool = False) -> np.ndarray:
        """Compute the embeddings of documents or words.

        Args:
            documents: N texts.
            verbose: Whether to show a progress bar. Default: False.

        Returns:
            Embeddings of shape (N, V), float32.
        """
        vectors: np.ndarray = self.embedding_model.encode(list(documents), show_progress_bar=verbose)
        return vectors
