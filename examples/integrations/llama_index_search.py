"""LlamaIndex: compare texts by embeddings that are computed by MLX, without torch.

python examples/integrations/llama_index_search.py [model]
"""

import sys

from mlx_hf_bridge import MLXSentenceTransformer
from mlx_hf_bridge.integrations.llama_index import MLXEmbedding

TEXTS = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
]
QUESTION = "When can I buy bread?"


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    embedding = MLXEmbedding(MLXSentenceTransformer(model_name))
    # With llama-index-embeddings-huggingface, after `import mlx_hf_bridge.sentence_transformers`:
    # embedding = HuggingFaceEmbedding(model_name=model_name, backend="mlx")
    query = embedding.get_query_embedding(QUESTION)
    vectors = embedding.get_text_embedding_batch(TEXTS)
    scores = [embedding.similarity(query, vector) for vector in vectors]
    print(TEXTS[scores.index(max(scores))])


if __name__ == "__main__":
    main(*sys.argv[1:])
