"""Use MLX embeddings in Chroma: an EmbeddingFunction that is stored with a collection by the model's name."""

from typing import Any, Self

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


@register_embedding_function
class MLXEmbeddingFunction(EmbeddingFunction[Documents]):
    """A Chroma embedding function that computes with MLX, with the model's own prompts for documents and queries.

    Args:
        model_name_or_path: A Hub id or folder; stored with the collection.
        options: Other arguments of MLXSentenceTransformer; stored with the collection, so they must be valid JSON.

    Example:
        >>> import chromadb
        >>> from mlx_hf_bridge.integrations.chroma import MLXEmbeddingFunction
        >>> function = MLXEmbeddingFunction("sentence-transformers/all-MiniLM-L6-v2")
        >>> collection = chromadb.EphemeralClient().get_or_create_collection("texts", embedding_function=function)
    """

    def __init__(self, model_name_or_path: str, **options: Any) -> None:
        self._config = {"model_name_or_path": str(model_name_or_path), **options}
        self.model = MLXSentenceTransformer(model_name_or_path, **options)

    def __call__(self, input: Documents) -> Embeddings:
        """Compute the embeddings of documents.

        Args:
            input: N documents.

        Returns:
            A list of N float32 vectors.
        """
        return list(np.asarray(self.model.encode_document(list(input)), np.float32))

    def embed_query(self, input: Documents) -> Embeddings:
        """Compute the embeddings of queries.

        Args:
            input: N queries.

        Returns:
            A list of N float32 vectors.
        """
        return list(np.asarray(self.model.encode_query(list(input)), np.float32))

    @staticmethod
    def name() -> str:
        """Return the name by which Chroma finds this class when it opens a stored collection.

        Returns:
            "mlx_hf_bridge".
        """
        return "mlx_hf_bridge"

    def get_config(self) -> dict[str, Any]:
        """Return what a collection stores to rebuild this function.

        Returns:
            The arguments of __init__.
        """
        return dict(self._config)

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """Rebuild the function from what a collection has stored.

        Args:
            config: What get_config returned.

        Returns:
            An equal embedding function.
        """
        return cls(**config)
