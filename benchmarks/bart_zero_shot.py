"""Measure size and speed of bart-large-mnli's shape in 8 bits, against transformers' zero-shot pipeline on torch.

The weights are random, so that scores mean nothing; the tokenizer is byte-level BPE trained on the texts.

python -m benchmarks.bart_zero_shot [--layers 12] [--texts 5] [--labels 5] [--rounds 3]
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

import tokenizers
import torch
import transformers

from benchmarks import texts
from benchmarks.measure import interleave
from mlx_hf_bridge import pipeline

TASK = "zero-shot-classification"
LABELS = ["sport", "politics", "science", "business", "travel", "music", "health", "law", "film", "food"]
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
REFERENCE = "transformers, default"


def save_model(folder: Path, layers: int, corpus: list[str]) -> None:
    """Save a BART of that many layers in encoder and decoder, with a tokenizer."""
    torch.manual_seed(0)
    config = transformers.BartConfig(
        encoder_layers=layers,
        decoder_layers=layers,
        id2label=NLI,
        label2id={label: number for number, label in NLI.items()},
    )
    transformers.BartForSequenceClassification(config).save_pretrained(folder)
    bpe = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator([*corpus, *LABELS], vocab_size=5000, special_tokens=special)
    bpe.save_model(str(folder))
    transformers.BartTokenizer.from_pretrained(folder, model_max_length=1024).save_pretrained(folder)


def mebibytes(folder: Path) -> float:
    """Return the size of the weight files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20


def main() -> None:
    """Print sizes, and texts per second with the ratio to transformers."""
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 12), ("texts", 5), ("labels", 5), ("rounds", 3)):
        arguments.add_argument(f"--{name}", type=int, default=default)
    given = arguments.parse_args()
    corpus, labels = texts.mixed(given.texts), LABELS[: given.labels]
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLX_HF_BRIDGE_CACHE"] = f"{scratch}/cache"
        folder = Path(scratch) / "bart"
        save_model(folder, given.layers, corpus)
        bridge = {
            name: pipeline(TASK, model=folder, quantization_config=recipe)
            for name, recipe in (("mlx_hf_bridge float32", None), ("mlx_hf_bridge 8 bits", "q8"))
        }
        print(f"bart-large-mnli's shape, {given.layers} + {given.layers} layers, on {os.cpu_count()} CPU cores")
        print(f"{'float32 checkpoint':32s} {mebibytes(folder):8.0f} MiB")
        for name, pipe in bridge.items():
            print(f"{name:32s} {mebibytes(pipe.model.folder):8.0f} MiB")
        reference = transformers.pipeline(TASK, model=str(folder), device="cpu")
        calls = {name: partial(pipe, corpus, labels) for name, pipe in bridge.items()}
        calls[REFERENCE] = partial(reference, corpus, labels)
        calls["transformers, batch_size 8"] = partial(reference, corpus, labels, batch_size=8)
        for timing in interleave(calls, given.rounds, REFERENCE):
            low, high = timing.spread
            speed = given.texts / timing.median
            print(f"{timing.name:32s} {speed:8.3f} texts/s {timing.ratio:6.2f} x  ({low:.2f} - {high:.2f})", flush=True)


if __name__ == "__main__":
    main()
