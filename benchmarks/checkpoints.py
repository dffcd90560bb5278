"""Build checkpoints that PyPI does not have: MiniLM with a random head, and a BERT-base with random weights."""

import shutil
from pathlib import Path

import torch
import transformers

from benchmarks.models import minilm_folder

_NOT_MODULES = shutil.ignore_patterns("modules.json", "1_Pooling", "2_Normalize", "*sentence*", "*.onnx", "onnx")


def _with_head(source: str, folder: Path, labels: list[str]) -> str:
    """Save `source` as a sequence classifier; its head is random, so that only its speed means something."""
    if not (folder / "config.json").is_file():
        shutil.copytree(source, folder, ignore=_NOT_MODULES)
        torch.manual_seed(0)
        names = dict(enumerate(labels))
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=len(labels), id2label=names, label2id={name: number for number, name in names.items()}
        )
        model.save_pretrained(folder)
    return str(folder)


def cross_encoder(source: str, scratch: Path) -> str:
    """Save a cross-encoder with one score."""
    return _with_head(source, scratch / "cross-encoder", ["score"])


def classifier(source: str, scratch: Path) -> str:
    """Save an NLI classifier."""
    return _with_head(source, scratch / "classifier", ["contradiction", "neutral", "entailment"])


def bert_base(scratch: Path) -> str:
    """Save a BERT-base with random weights and MiniLM's tokenizer and pooling."""
    folder = scratch / "bert-base"
    if not (folder / "config.json").is_file():
        shutil.copytree(minilm_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin", "onnx"))
        torch.manual_seed(0)
        transformers.BertModel(transformers.BertConfig()).save_pretrained(folder)
        pooling = folder / "1_Pooling" / "config.json"
        pooling.write_text(pooling.read_text().replace("384", "768"))
    return str(folder)
