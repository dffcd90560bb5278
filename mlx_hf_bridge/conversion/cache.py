"""The cache of converted folders: found by what they were made from, made once, never half-written."""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from filelock import FileLock

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, recipe_name
from mlx_hf_bridge.runtime.environment import bridge_cache
from mlx_hf_bridge.tracing.serial import GRAPH_FORMAT

logger = logging.getLogger(__name__)

_DIGEST_LETTERS = 16
_READABLE_LETTERS = 64


def cache_folder(
    source: Source, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None, form: int, traced: str | None = None
) -> Path:
    """The place of this source in this recipe, dtype and format number; traced: the task of its graph."""
    key = {
        "source": source.identity,
        "recipe": recipe.to_dict() if recipe else None,
        "dtype": str(dtype) if dtype else None,
        "format": form,
    }
    if traced is not None:
        key |= {"traced": traced, "graph": GRAPH_FORMAT}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGEST_LETTERS]
    spelled = source.name if source.revision else source.folder.name
    readable = re.sub(r"[^\w.-]+", "--", spelled)[-_READABLE_LETTERS:].strip("-")
    kind = f"{recipe_name(recipe)}-traced" if traced is not None else recipe_name(recipe)
    return bridge_cache() / "converted" / f"{readable}-{kind}-{digest}"


def is_complete(folder: Path) -> bool:
    """Whether every file that the metadata lists is there in its size."""
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in metadata["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def create_once(folder: Path, make: Callable[[Path], Any]) -> Path:
    """The folder, made by `make` where it is not there or broken; one process makes it while others wait."""
    if is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not is_complete(folder):
            if folder.exists():
                logger.warning("%s is broken; converting again", folder)
            write_atomically(folder, make)
    return folder


def write_atomically(folder: Path, make: Callable[[Path], Any]) -> None:
    """Let `make` fill a new folder beside `folder`, then put it in its place; nothing is left when it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = scratch / folder.name
        made.mkdir()
        make(made)
        if folder.exists():
            os.replace(folder, scratch / "replaced")
        os.replace(made, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
