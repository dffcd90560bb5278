"""The cache of converted folders: looked up by what they are made from, written once, never half-written."""

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
from mlx_hf_bridge.version import installed_version

logger = logging.getLogger(__name__)

# Hexadecimal digits of the hash in a folder's name, and the most characters of the readable part before it.
_DIGEST_LETTERS = 16
_READABLE_LETTERS = 64


def cache_folder(
    source: Source, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None, form: int, traced: str | None = None
) -> Path:
    """Return the cache folder of a conversion; it need not exist.

    Args:
        source: The checkpoint's repo and revision, or folder and files.
        recipe: The recipe, None for float weights.
        dtype: The dtype asked for, None for the default.
        form: Number of the folder's format (`write.FORMAT`); folders of other formats are not found.
        traced: The task of a traced graph; None for a native model.
    """
    key = {
        "source": source.identity,
        "recipe": recipe.to_dict() if recipe else None,
        "dtype": str(dtype) if dtype else None,
        "format": form,
        # It builds the tokenizer that the folder holds, and may build another one in another version.
        "transformers": installed_version("transformers"),
    }
    if traced is not None:
        key |= {"traced": traced, "graph": GRAPH_FORMAT}
    # sort_keys: equal keys must give equal text.
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGEST_LETTERS]
    spelled = source.name if source.revision else source.folder.name
    readable = re.sub(r"[^\w.-]+", "--", spelled)[-_READABLE_LETTERS:].strip("-")
    kind = f"{recipe_name(recipe)}-traced" if traced is not None else recipe_name(recipe)
    return bridge_cache() / "converted" / f"{readable}-{kind}-{digest}"


def is_complete(folder: Path) -> bool:
    """Whether every file that the folder's metadata lists exists and has the listed size."""
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        # Sizes and not hashes, since this runs at every load.
        return all((folder / name).stat().st_size == size for name, size in metadata["files"].items())
    # Whatever is wrong with the metadata, the folder is converted again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def create_once(folder: Path, create: Callable[[Path], Any]) -> Path:
    """Return the folder, created first if it is missing or incomplete; other processes wait for the one that does."""
    if is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        # Checked again: another process may have finished while this one waited for the lock.
        if not is_complete(folder):
            if folder.exists():
                logger.warning("%s is incomplete; converting again", folder)
            write_atomically(folder, create)
    return folder


def write_atomically(folder: Path, create: Callable[[Path], Any]) -> None:
    """Create a folder completely or not at all.

    Args:
        folder: The folder; an existing one is replaced at the end.
        create: Called with a new empty folder next to it, to fill; nothing is left if it fails.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent folder, since a rename is atomic within one file system only.
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new = scratch / folder.name
        new.mkdir()
        create(new)
        if folder.exists():
            # A folder that is not empty cannot be replaced by a rename, so the old one moves away first.
            os.replace(folder, scratch / "replaced")
        os.replace(new, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
