"""Use MLX embeddings in KeyBERT: a keybert.backend.BaseEmbedder.

Reference: keybert/backend/_sentencetransformers.py.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keybert.backend import BaseEmbedder

from mlx_hf_bridge.integrations.models import ModelLike, as_model
from mlx_hf_bridge.runtime.boundary import guard_methods


@guard_methods
class MLXBackend(BaseEmbedder):
    """A KeyBERT embedder that computes with MLX, as KeyBERT's SentenceTransformerBackend does with torch.

    Args:
        embedding_model: The embedding model, or a Hub id or folder.
        encode_kwargs: Arguments of every call of `encode`, such as prompt_name="query" or batch_size=64.

    Example:
        >>> from keybert import KeyBERT
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.keybert import MLXBackend
        >>> model = MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2")
        >>> extractor = KeyBERT(model=MLXBackend(model))
    """

    def __init__(self, embedding_model: ModelLike, **encode_kwargs: Any) -> None:
        super().__init__()
        self.embedding_model = as_model(embedding_model)
        self.encode_kwargs = encode_kwargs

    def embed(self, documents: Sequence[str], verbose: bool = False) -> np.ndarray:
        """Compute the embeddings of documents or words, with the model's default prompt if it has one.

        Args:
            documents: N texts.
            verbose: Whether to show a progress bar. Default: False.

        Returns:
            Embeddings of shape (N, V), float32.
        """
        options = {**self.encode_kwargs, "show_progress_bar": verbose}
        vectors: np.ndarray = self.embedding_model.encode(documents, **options)
        return vectors
