"""Tiny BERT checkpoints with random weights, one for each head, that load in milliseconds."""

from pathlib import Path
from typing import Any

import torch
import transformers

_WORDS = [
    "the", "cat", "dog", "sat", "on", "mat", "a", "stock", "market", "rose", "today", "is", "this", "about", "sport",
    "news", "good", "bad", "film", "i", "love", "hate", "##s", "##ing", "un", ".", ",", "!", "?", "world", "who",
]  # fmt: skip
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_VOCABULARY = 120
_LABELS = {0: "contradiction", 1: "neutral", 2: "entailment"}
HEADS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
)


def tiny_checkpoint(folder: Path, head: str = "Model", labels: int = 3, layers: int = 2, width: int = 64) -> Path:
    """Save a BERT with random weights and a tokenizer, unless the folder has one.

    Args:
        folder: Where to save it.
        head: The suffix of transformers' class: one of HEADS.
        labels: How many labels a classifier has.
        layers: How many layers.
        width: The hidden size.

    Returns:
        The folder.
    """
    if (folder / "config.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*_SPECIAL, *dict.fromkeys([*_WORDS, *letters, *(f"##{letter}" for letter in letters)])]
    vocabulary = [*vocabulary, *(f"[unused{number}]" for number in range(_VOCABULARY))][:_VOCABULARY]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    names = _LABELS if labels == len(_LABELS) else {number: f"LABEL_{number}" for number in range(labels)}
    keys: dict[str, Any] = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = transformers.BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        **(keys if "Classification" in head else {}),
    )
    torch.manual_seed(len(head) + labels)
    model = getattr(transformers, f"Bert{head}")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder
