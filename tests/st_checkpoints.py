"""Tiny repos of sentence-transformers' four classes, made by sentence-transformers itself."""

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
# float32 on other kernels; vectors of tiny models with weights of std 0.3 reach 10 in size, so relative too.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def transformer(
    folder: Path, row: Row | None = None, head: str = "Model", labels: int = 3, **options: Any
) -> Transformer:
    """sentence-transformers' first module, of a family's tiny checkpoint with that head."""
    make_checkpoint(folder, row, head)
    module = Transformer(str(folder), **options)
    shutil.rmtree(folder)
    return module


def randomized(module: torch.nn.Module) -> Any:
    """The module with all of its weights drawn anew, so that none is at its usual value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3)
    return module
