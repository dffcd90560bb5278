"""Modules and texts for tiny repos of the four sentence-transformers classes, built by sentence-transformers itself."""

import shutil
from pathlib import Path
from typing import Any

import torch
from checkpoints import Row, make_checkpoint
from sentence_transformers.base.modules import Transformer

TEXTS = ["the cat sat on the mat.", "a dog", "stock market rose today!", "", "i love this film, i hate news ?", "cats"]
PAIRS = [
    ("the cat", "a dog sat"),
    ("news", ""),
    ("i love this film", "good"),
    ("stock market rose", "bad news today !"),
]
# float32 rounding of different kernels. The relative part: values reach 10 with random weights of std 0.3.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def transformer(
    folder: Path, row: Row | None = None, head: str = "Model", labels: int = 3, **options: Any
) -> Transformer:
    """Return a sentence-transformers Transformer module of a tiny checkpoint with the given head."""
    make_checkpoint(folder, row, head)
    module = Transformer(str(folder), **options)
    shutil.rmtree(folder)
    return module


def randomized(module: torch.nn.Module) -> Any:
    """Reinitialize all weights of the module at random, so that none keeps its default, and return the module."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)
    return module
