"""Semantic search: find the sentences closest in meaning to a question.

python examples/search.py [model] [question]
"""

import sys

from mlx_hf_bridge import MLXSentenceTransformer

SENTENCES = [
    "The bakery on the corner opens at six in the morning.",
    "A new bridge will connect the two banks of the river next year.",
    "Our cat refuses to eat anything but fresh fish.",
    "Interest rates were left unchanged by the central bank.",
    "The orchestra rehearses every Thursday evening.",
    "To renew a passport you need two photographs and the old document.",
]


def main(model_name: str = "all-MiniLM-L6-v2", question: str = "When can I buy bread?") -> None:
    model = MLXSentenceTransformer(model_name, quantization_config="q8")
    vectors = model.encode(SENTENCES)
    scores = model.similarity(model.encode(question), vectors)[0]
    print(question)
    for score, sentence in sorted(zip(scores, SENTENCES, strict=True), reverse=True)[:3]:
        print(f"{score:6.3f}  {sentence}")


if __name__ == "__main__":
    main(*sys.argv[1:])
