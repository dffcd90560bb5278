"""Convert a DistilBERT classifier to 8 and 4 bits, compare sizes and logits, and save the smaller model.

python examples/convert_distilbert.py [model] [folder]
"""

import sys
from pathlib import Path

import numpy as np

from mlx_hf_bridge import MLXAutoModelForSequenceClassification


def main(model_name: str = "typeform/distilbert-base-uncased-mnli", folder: str = "distilbert-q4") -> None:
    ids = np.array([[101, 7592, 2088, 102]]) % 100  # ids that every vocabulary has
    exact = MLXAutoModelForSequenceClassification.from_pretrained(model_name)
    logits = exact(ids).logits
    print(f"float  {size_of(exact.folder):8.2f} MiB")
    for recipe in ("q8", "q4"):
        model = MLXAutoModelForSequenceClassification.from_pretrained(model_name, quantization_config=recipe)
        difference = np.abs(model(ids).logits - logits).max()
        print(f"{recipe:5}  {size_of(model.folder):8.2f} MiB   largest logit difference {difference:.4f}")
    model.save_pretrained(folder)
    print(f"saved {model!r} in {folder}")


def size_of(folder: Path) -> float:
    return (folder / "model.safetensors").stat().st_size / 2**20


if __name__ == "__main__":
    main(*sys.argv[1:])
