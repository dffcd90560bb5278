"""Compare predicted and actual size of a model shaped like typeform/distilbert-base-uncased-mnli, at 8 and 4 bits.

python -m benchmarks.distilbert_size
"""

import tempfile
from pathlib import Path

import torch
import transformers

from mlx_hf_bridge import MLXAutoModelForSequenceClassification
from mlx_hf_bridge.architecture.family import SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.plan import plan_conversion
from mlx_hf_bridge.quantization.recipes import recipe_from

MIB = 2**20


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        labels = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}
        transformers.DistilBertForSequenceClassification(
            transformers.DistilBertConfig(id2label=labels, label2id={name: number for number, name in labels.items()})
        ).save_pretrained(folder)
        source = (Path(folder) / "model.safetensors").stat().st_size / MIB
        print(f"float32: {source:.1f} MiB")
        for recipe in ("q8", "q4"):
            checkpoint = read_checkpoint(locate(folder, HubOptions()))
            plan = plan_conversion(checkpoint, SEQUENCE_CLASSIFICATION, recipe_from(recipe), None)
            model = MLXAutoModelForSequenceClassification.from_pretrained(folder, quantization_config=recipe)
            actual = (model.folder / "model.safetensors").stat().st_size / MIB
            print(
                f"{recipe}: predicted {plan.weight_bytes / MIB:.2f} MiB, actual {actual:.2f} MiB, "
                f"{actual / source:.3f} of float32"
            )


if __name__ == "__main__":
    main()
