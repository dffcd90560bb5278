"""LlamaIndex: a BaseEmbedding (llama_index.core)."""

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXEmbedding(BaseEmbedding):
    """Texts and queries, each with the model's own prompt. Other arguments are BaseEmbedding's."""

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
