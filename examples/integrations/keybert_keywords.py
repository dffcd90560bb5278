"""KeyBERT: extract keywords with sentence-transformers' own class, computed by MLX.

python examples/integrations/keybert_keywords.py [model]
"""

import sys

from keybert import KeyBERT
from sentence_transformers import SentenceTransformer

import mlx_hf_bridge.sentence_transformers  # noqa: F401  adds backend="mlx"

TEXT = "The bakery on the corner opens at six and sells bread, rolls and cakes until the evening."


def main(model_name: str = "sentence-transformers/all-MiniLM-L6-v2") -> None:
    model = SentenceTransformer(model_name, backend="mlx")
    # Without torch: model = mlx_hf_bridge.integrations.keybert.MLXBackend(MLXSentenceTransformer(model_name))
    for word, score in KeyBERT(model=model).extract_keywords(TEXT, top_n=3):
        print(f"{score:.3f}  {word}")


if __name__ == "__main__":
    main(*sys.argv[1:])
