"""The cache of converted folders: looked up by what they are made from, written once, never half-written."""

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
from filelock import FileLock

from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.conversion.integrity import find_damage, find_strays
from mlx_hf_bridge.conversion.usage import Use, converted_folder, use
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, recipe_name
from mlx_hf_bridge.runtime.atomic_folder import remove_abandoned, reporting_write_errors, write_atomically
from mlx_hf_bridge.runtime.environment import CACHE_VARIABLE
from mlx_hf_bridge.tracing.serial import GRAPH_FORMAT
from mlx_hf_bridge.version import installed_version

logger = logging.getLogger(__name__)

# Hexadecimal digits of the hash in a folder's name, and the most bytes of the readable part before it: with what is
# added for scratch folders and locks, a name stays below the 255 bytes that file systems allow.
_DIGEST_LETTERS = 16
_READABLE_BYTES = 64
_ADVICE = f"Set {CACHE_VARIABLE}, the folder of the cache, to one on a disk with space that you may write to."


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
        # They build the tokenizer that the folder holds, and may build another one in another version.
        "transformers": installed_version("transformers"),
        "tokenizers": installed_version("tokenizers"),
    }
    if traced is not None:
        key |= {"traced": traced, "graph": GRAPH_FORMAT}
    # sort_keys: equal keys must give equal text.
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGEST_LETTERS]
    spelled = source.name if source.revision else source.folder.name
    encoded = re.sub(r"[^\w.-]+", "--", spelled).encode()[-_READABLE_BYTES:]
    readable = encoded.decode(errors="ignore").strip("-")
    kind = f"{recipe_name(recipe)}-traced" if traced is not None else recipe_name(recipe)
    return converted_folder() / f"{readable}-{kind}-{name}"


def create_once(folder: Path, create: Callable[[Path], Any]) -> Use | None:
    """Make sure that a folder of the cache is there and intact; other processes wait while one creates it.

    Args:
        folder: The folder, created first if it is missing or damaged.
        create: Called with a new empty folder, to fill.

    Returns:
        What to keep as long as files of the folder are read; None if the cache is read-only.

    Raises:
        RepositoryError: If the cache cannot be written.
    """
    # First, so that it cannot be removed after it was found intact.
    held = use(folder)
    if _is_intact(folder):
        # A process that is killed right after its conversion leaves one.
        remove_abandoned(folder.parent)
        return held
    with reporting_write_errors(folder, _ADVICE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # Checked again: another process may have finished while this one waited for the lock.
            if not _is_intact(folder):
                if folder.exists():
                    logger.warning("%s is incomplete or damaged; converting again", folder)
                write_atomically(folder, create, _ADVICE)
    return held or use(folder)


def _is_intact(folder: Path) -> bool:
    return not any(find_damage(folder)) and not any(find_strays(folder))
