"""Zero-shot named entity recognition: find entities with labels that the model was not trained on (GLiNER).

python examples/zero_shot_ner.py [model]
"""

import sys

from mlx_hf_bridge import MLXGLiNER

TEXTS = [
    "Ada Lovelace wrote about the Analytical Engine in London in 1843.",
    "The Voyager 2 probe passed Neptune on 25 August 1989.",
]
LABELS = ["person", "machine", "spacecraft", "place", "date"]


def main(model_name: str = "urchade/gliner_small-v2.1") -> None:
    model = MLXGLiNER.from_pretrained(model_name, quantization_config="q8")
    for text, entities in zip(TEXTS, model.inference(TEXTS, LABELS), strict=True):
        print(text)
        for entity in entities:
            print(f"    {entity['text']:24} {entity['label']:12} {entity['score']:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
