"""Use MLX embeddings in LlamaIndex: a llama_index.core BaseEmbedding."""

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXEmbedding(BaseEmbedding):
    """A LlamaIndex embedding that is computed by MLX, with the model's own prompts for texts and queries.

    Args:
        model: The embedding model.
        base: Arguments of BaseEmbedding, such as embed_batch_size.

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.llama_index import MLXEmbedding
        >>> embedding = MLXEmbedding(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> vector = embedding.get_query_embedding("When can I buy bread?")
    """

    _model: MLXSentenceTransformer = PrivateAttr()

    def __init__(self, model: MLXSentenceTransformer, **base: Any) -> None:
        super().__init__(**base)
        self._model = model

    def _get_query_embedding(self, query: str) -> list[float]:
        vector: list[float] = self._model.encode_query(query).tolist()
        return vector

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode_document(texts).tolist()
        return vectors
