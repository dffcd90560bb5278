"""A tiny checkpoint to convert, and helpers for the tests of conversion."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from checkpoints import Row, make_checkpoint

MB = 2**20
Capture = pytest.CaptureFixture[str]
# Sizes divisible by every group size up to 64, so that every layer can be quantized.
SMALL = Row(
    "bert",
    "Bert",
    transformers.BertConfig(
        vocab_size=101,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=44,
    ),
)


def make_bert(folder: Path) -> Path:
    """Write a sentence-transformers checkpoint with CLS pooling and return its folder."""
    make_checkpoint(folder, SMALL)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    return folder


def snapshot(*folders: Path) -> dict[str, tuple[int, int]]:
    """Return the size and mtime of everything in the folders, by path."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


def converted(suffix: str = "q8") -> Path:
    """Return the default output folder of a conversion of the checkpoint "bert"."""
    return Path("models/mlx_converted") / f"bert-mlx-{suffix}"


def metadata_of(folder: Path) -> dict[str, Any]:
    """Return the content of conversion_metadata.json."""
    content: dict[str, Any] = json.loads((folder / "conversion_metadata.json").read_text(encoding="utf-8"))
    return content
