"""Use MLX embeddings in Haystack: one component for queries, one for documents."""

from dataclasses import replace

from haystack import Document, component

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


@component
class MLXTextEmbedder:
    """A Haystack component that embeds a query, with the model's own prompt for queries.

    Args:
        model: The embedding model.

    Example:
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.haystack import MLXTextEmbedder
        >>> embedder = MLXTextEmbedder(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> vector = embedder.run("When can I buy bread?")["embedding"]
    """

    def __init__(self, model: MLXSentenceTransformer) -> None:
        self.model = model

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Compute the embedding of a query.

        Args:
            text: The query.

        Returns:
            {"embedding": a list of V floats}.
        """
        return {"embedding": self.model.encode_query(text).tolist()}


@component
class MLXDocumentEmbedder:
    """A Haystack component that embeds documents, with the model's own prompt for documents.

    Args:
        model: The embedding model.

    Example:
        >>> from haystack import Document
        >>> from mlx_hf_bridge import MLXSentenceTransformer
        >>> from mlx_hf_bridge.integrations.haystack import MLXDocumentEmbedder
        >>> embedder = MLXDocumentEmbedder(MLXSentenceTransformer("sentence-transformers/all-MiniLM-L6-v2"))
        >>> documents = embedder.run([Document(content="The bakery opens at six.")])["documents"]
    """

    def __init__(self, model: MLXSentenceTransformer) -> None:
        self.model = model

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Compute the embeddings of documents.

        Args:
            documents: The documents; one without content counts as an empty text.

        Returns:
            {"documents": copies of the documents with their `embedding` set}.
        """
        vectors = self.model.encode_document([document.content or "" for document in documents])
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector.tolist()) for document, vector in pairs]}
