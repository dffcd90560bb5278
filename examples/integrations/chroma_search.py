"""Chroma: search a collection whose embeddings are computed by MLX, without torch.

python examples/integrations/chroma_search.py [model]
"""

import sys

import chromadb

from mlx_hf_bridge.integrations.chroma import MLXEmbeddingFunction

TEXTS = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
]
QUESTION = "When can I buy bread?"


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    function = MLXEmbeddingFunction(model_name)
    # With Chroma's own function, after `import mlx_hf_bridge.sentence_transformers`:
    # function = SentenceTransformerEmbeddingFunction(model_name, backend="mlx")
    client = chromadb.EphemeralClient(chromadb.config.Settings(anonymized_telemetry=False))
    collection = client.get_or_create_collection("example", embedding_function=function)
    collection.upsert(ids=[str(number) for number in range(len(TEXTS))], documents=TEXTS)
    print(collection.query(query_texts=[QUESTION], n_results=1)["documents"][0][0])


if __name__ == "__main__":
    main(*sys.argv[1:])
