"""Use MLX embeddings in LangChain: a langchain_core Embeddings object."""

from collections.abc import Mapping
from typing import Any

from langchain_core.embeddings import Embeddings

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


class MLXEmbeddings(Embeddings):
    """LangChain embeddings that are computed by MLX, with the model's own prompts for documents and queries.

    Args:
        model: The embedding model.
        encode_kwargs: Arguments for encode_document and encode_query, such as {"batch_size": 64}. Default: none.

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.langchain import MLXEmbeddings
        >>> embeddings = MLXEmbeddings(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> vector = embeddings.embed_query("When can I buy bread?")
    """

    def __init__(self, model: MLXSentenceTransformer, encode_kwargs: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.encode_kwargs = dict(encode_kwargs or {})

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Compute the embeddings of documents.

        Args:
            texts: N documents.

        Returns:
            N lists of V floats.
        """
        vectors: list[list[float]] = self.model.encode_document(texts, **self.encode_kwargs).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Compute the embedding of a query.

        Args:
            text: The query.

        Returns:
            A list of V floats.
        """
        vector: list[float] = self.model.encode_query(text, **self.encode_kwargs).tolist()
        return vector
