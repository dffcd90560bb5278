"""Tiny checkpoints of every family, made by transformers itself, and the table that the tests are parametrised over."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

# Values unlike any default, so that one that is ignored shows.
SHARED: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 44,
    "layer_norm_eps": 1e-5,
}
WITH_SEGMENTS = {**SHARED, "type_vocab_size": 3}
WORDS = [
    "the", "cat", "dog", "sat", "on", "mat", "a", "stock", "market", "rose", "today", "is", "this", "example", "about",
    "sport", "news", "good", "bad", "film", "i", "love", "hate", "##s", "##ing", "un", ".", ",", "!", "?", "world",
]  # fmt: skip
STD = 0.3


@dataclass(frozen=True)
class Row:
    """One family's smallest config that takes every branch; `classes` is the prefix of its transformers classes."""

    model_type: str
    classes: str
    config: Any
    pad_token_id: int = 0
    segments: int = 0


FAMILIES = [
    Row("bert", "Bert", transformers.BertConfig(**WITH_SEGMENTS, hidden_act="gelu_new"), segments=3),
    Row("bert", "Bert", transformers.BertConfig(**WITH_SEGMENTS, hidden_act="relu"), segments=3),
    Row("roberta", "Roberta", transformers.RobertaConfig(**WITH_SEGMENTS, pad_token_id=2), 2, 3),
    Row("xlm-roberta", "XLMRoberta", transformers.XLMRobertaConfig(**WITH_SEGMENTS, pad_token_id=1), 1, 3),
    Row("camembert", "Camembert", transformers.CamembertConfig(**WITH_SEGMENTS, pad_token_id=1), 1, 3),
    Row(
        "distilbert",
        "DistilBert",
        transformers.DistilBertConfig(
            vocab_size=101, dim=24, n_layers=3, n_heads=4, hidden_dim=40, max_position_embeddings=44, activation="relu"
        ),
    ),
    Row("mpnet", "MPNet", transformers.MPNetConfig(**SHARED), 1),
    Row("electra", "Electra", transformers.ElectraConfig(**WITH_SEGMENTS, embedding_size=16), segments=3),
    Row("electra", "Electra", transformers.ElectraConfig(**WITH_SEGMENTS, embedding_size=24), segments=3),
    Row(
        "albert",
        "Albert",
        transformers.AlbertConfig(
            **WITH_SEGMENTS, embedding_size=16, num_hidden_groups=3, inner_group_num=2, hidden_act="gelu_new"
        ),
        segments=3,
    ),
]


def row_name(row: Row) -> str:
    return f"{row.model_type}-{FAMILIES.index(row)}"


def make_model(row: Row, head: str = "Model", labels: int = 3, seed: int = 0) -> Any:
    """A transformers model, every parameter redrawn: fresh norms are ones and fresh biases zeros, which hides swaps."""
    names = {number: f"class {number}" for number in range(labels)}
    changed = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = type(row.config).from_dict({**row.config.to_dict(), **changed})
    torch.manual_seed(seed)
    model = getattr(transformers, f"{row.classes}{head}")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, STD)
    return model


def ragged_inputs(row: Row, lengths: tuple[int, ...] = (17, 9, 4), seed: int = 0) -> dict[str, np.ndarray]:
    """Right-padded ids, mask and, where the family has them, real segments."""
    random = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths))
    ids = random.integers(5, row.config.vocab_size, shape)
    mask = (np.arange(shape[1])[None] < np.array(lengths)[:, None]).astype(np.int64)
    inputs = {"input_ids": np.where(mask == 1, ids, row.pad_token_id), "attention_mask": mask}
    if row.segments:
        inputs["token_type_ids"] = random.integers(0, row.segments, shape) * mask
    return inputs


def make_wordpiece(folder: Path, pad_token_id: int = 0) -> None:
    """A BERT vocabulary that fits the tiny models (101 ids), padding where the family has it."""
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    special.insert(pad_token_id, "[PAD]")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*special, *dict.fromkeys([*WORDS, *letters, *(f"##{letter}" for letter in letters)])]
    vocabulary += [f"[unused{number}]" for number in range(101 - len(vocabulary))]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary[:101]) + "\n", encoding="utf-8")
    transformers.BertTokenizer(str(folder / "vocab.txt"), model_max_length=44).save_pretrained(folder)


def make_checkpoint(folder: Path, row: Row | None = None, head: str = "Model", labels: int = 3, seed: int = 0) -> Any:
    """Save a tiny model with a tokenizer into `folder` -> the transformers model."""
    row = row or FAMILIES[0]
    model = make_model(row, head, labels, seed)
    model.save_pretrained(folder)
    make_wordpiece(folder, row.pad_token_id)
    return model
