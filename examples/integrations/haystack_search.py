"""Haystack: search with components that compute with MLX, without torch.

python examples/integrations/haystack_search.py [model]
"""

import sys

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.haystack import MLXDocumentEmbedder, MLXTextEmbedder

TEXTS = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
]
QUESTION = "When can I buy bread?"


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    model, store = MLXSentenceTransformer(model_name), InMemoryDocumentStore()
    documents = [Document(content=text) for text in TEXTS]
    store.write_documents(MLXDocumentEmbedder(model).run(documents)["documents"])
    pipeline = Pipeline()
    pipeline.add_component("query", MLXTextEmbedder(model))
    pipeline.add_component("search", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("query.embedding", "search.query_embedding")
    print(pipeline.run({"query": {"text": QUESTION}})["search"]["documents"][0].content)


if __name__ == "__main__":
    main(*sys.argv[1:])
