"""LangChain: an Embeddings object (langchain_core)."""

from collections.abc import Mapping
from typing import Any

from langchain_core.embeddings import Embeddings

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXEmbeddings(Embeddings):
    """Documents and queries, each with the model's own prompt; encode_kwargs go to encode_document and encode_query."""

    def __init__(self, model: MLXSentenceTransformer, encode_kwargs: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.encode_kwargs = dict(encode_kwargs or {})

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Texts -> a list of numbers each."""
        vectors: list[list[float]] = self.model.encode_document(texts, **self.encode_kwargs).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """A text -> a list of numbers."""
        vector: list[float] = self.model.encode_query(text, **self.encode_kwargs).tolist()
        return vector
