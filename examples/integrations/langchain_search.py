"""LangChain: search a vector store whose embeddings are computed by MLX, without torch.

python examples/integrations/langchain_search.py [model]
"""

import sys

from langchain_core.vectorstores import InMemoryVectorStore

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.langchain import MLXEmbeddings

TEXTS = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
]
QUESTION = "When can I buy bread?"


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    embeddings = MLXEmbeddings(MLXSentenceTransformer(model_name))
    # With langchain-huggingface, after `import mlx_hf_bridge.sentence_transformers`:
    # embeddings = HuggingFaceEmbeddings(model_name=model_name, model_kwargs={"backend": "mlx"})
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    print(store.similarity_search(QUESTION, k=1)[0].page_content)


if __name__ == "__main__":
    main(*sys.argv[1:])
