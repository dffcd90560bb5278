"""Use MLX embeddings in BERTopic: a bertopic.backend.BaseEmbedder.

Reference: bertopic/backend/_sentencetransformers.py.
"""

from collections.abc import Sequence

import numpy as np
from bertopic.backend import BaseEmbedder

from mlx_hf_bridge.integrations.models import ModelLike, as_model
from mlx_hf_bridge.runtime.boundary import guard_methods


@guard_methods
class MLXBackend(BaseEmbedder):
    """A BERTopic embedder that computes with MLX, as BERTopic's SentenceTransformerBackend does with torch.

    Args:
        embedding_model: The embedding model, or a Hub id or folder.

    Example:
        >>> from bertopic import BERTopic
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.bertopic import MLXBackend
        >>> model = MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> topics = BERTopic(embedding_model=MLXBackend(model))
    """

    def __init__(self, embedding_model: ModelLike) -> None:
        super().__init__()
        self.embedding_model = as_model(embedding_model)

    def embed(self, documents: Sequence[str], verbose: bool = False) -> np.ndarray:
        """Compute the embeddings of documents or words, with the model's default prompt if it has one.

        Args:
            documents: N texts.
            verbose: Whether to show a progress bar. Default: False.

        Returns:
            Embeddings of shape (N, V), float32.
        """
        vectors: np.ndarray = self.embedding_model.encode(documents, show_progress_bar=verbose)
        return vectors
