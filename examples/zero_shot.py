"""Zero-shot classification: classify texts with labels that the model was not trained on.

python examples/zero_shot.py [model]
"""

import sys

from mlx_hf_bridge import pipeline

TEXTS = [
    "The striker scored twice in the last ten minutes.",
    "Shares fell after the company cut its forecast.",
    "The telescope found water in the atmosphere of a distant planet.",
]
LABELS = ["sport", "business", "science"]


def main(model_name: str = "typeform/distilbert-base-uncased-mnli") -> None:
    classify = pipeline("zero-shot-classification", model=model_name, quantization_config="q8")
    for answer in classify(TEXTS, candidate_labels=LABELS):
        scores = ", ".join(
            f"{label} {score:.2f}" for label, score in zip(answer["labels"], answer["scores"], strict=True)
        )
        print(f"{answer['sequence']}\n    {scores}")


if __name__ == "__main__":
    main(*sys.argv[1:])
