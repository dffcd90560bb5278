"""Haystack: two components, for queries and for documents."""

from dataclasses import replace

from haystack import Document, component

from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer


@component
class MLXTextEmbedder:
    """A query -> its vector, with the model's own prompt for queries."""

    def __init__(self, model: MLXSentenceTransformer) -> None:
        self.model = model

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """text -> {"embedding": numbers}."""
        return {"embedding": self.model.encode_query(text).tolist()}


@component
class MLXDocumentEmbedder:
    """Documents -> copies with vectors, with the model's own prompt for documents."""

    def __init__(self, model: MLXSentenceTransformer) -> None:
        self.model = model

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """documents -> {"documents": the same, each with `embedding`}."""
        vectors = self.model.encode_document([document.content or "" for document in documents])
        pairs = zip(documents, vectors, strict=True)
        return {"documents": [replace(document, embedding=vector.tolist()) for document, vector in pairs]}
