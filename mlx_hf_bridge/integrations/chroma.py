"""Chroma: an EmbeddingFunction (chromadb), stored with a collection by the model's name."""

from typing import Any, Self

import numpy as np
from chromadb.api.types import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


@register_embedding_function
class MLXEmbeddingFunction(EmbeddingFunction[Documents]):
    """Documents and queries, each with the model's own prompt.

    model_name_or_path: a folder or Hub id, which the collection keeps; options: MLXSentenceTransformer's, as JSON.
    """

    def __init__(self, model_name_or_path: str, **options: Any) -> None:
        self._config = {"model_name_or_path": str(model_name_or_path), **options}
        self.model = MLXSentenceTransformer(model_name_or_path, **options)

    def __call__(self, input: Documents) -> Embeddings:
        """Documents -> a float32 vector each."""
        return list(np.asarray(self.model.encode_document(list(input)), np.float32))

    def embed_query(self, input: Documents) -> Embeddings:
        """Queries -> a float32 vector each."""
        return list(np.asarray(self.model.encode_query(list(input)), np.float32))

    @staticmethod
    def name() -> str:
        """By which Chroma finds this class again."""
        return "mlx_hf_bridge"

    def get_config(self) -> dict[str, Any]:
        """What a collection keeps."""
        return dict(self._config)

    @classmethod
    def build_from_config(cls, config: dict[str, Any]) -> Self:
        """The function of what a collection has kept."""
        return cls(**config)
