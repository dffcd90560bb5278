"""txtai: search an index whose embeddings are computed by MLX, without torch for encoding.

python examples/integrations/txtai_search.py [model]
"""

import sys

from txtai.embeddings import Embeddings

TEXTS = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
]
QUESTION = "When can I buy bread?"


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    embeddings = Embeddings(path=model_name, method="mlx_hf_bridge.integrations.txtai.MLXVectors", content=False)
    embeddings.index(list(enumerate(TEXTS)))
    number, _ = embeddings.search(QUESTION, 1)[0]
    print(TEXTS[number])


if __name__ == "__main__":
    main(*sys.argv[1:])
