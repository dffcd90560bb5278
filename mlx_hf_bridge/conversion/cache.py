"""The cache of converted folders: looked up by what they are made from, written once, never half-written."""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
from filelock import FileLock, Timeout

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE
from mlx_hf_bridge.checkpoints.fingerprint import digest
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.errors import BridgeError, RepositoryError
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, recipe_name
from mlx_hf_bridge.runtime.environment import CACHE_VARIABLE, bridge_cache
from mlx_hf_bridge.tracing.serial import GRAPH_FORMAT
from mlx_hf_bridge.version import installed_version

logger = logging.getLogger(__name__)

# Hexadecimal digits of the hash in a folder's name, and the most characters of the readable part before it.
_DIGEST_LETTERS = 16
_READABLE_LETTERS = 64
# The end of the names of folders that are being written, the lock in them, and the time that making it takes at most.
_SCRATCH, _LOCK, _SECONDS_UNTIL_LOCKED = ".scratch", "lock", 600
_ADVICE = "Give a folder on a disk with space that you may write to."
# Errors of a folder or disk that cannot be written; others say themselves what they are about.
_WRITE_ERRORS = {
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.ENOSPC),
    *(errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


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
    readable = re.sub(r"[^\w.-]+", "--", spelled)[-_READABLE_LETTERS:].strip("-")
    kind = f"{recipe_name(recipe)}-traced" if traced is not None else recipe_name(recipe)
    return bridge_cache() / "converted" / f"{readable}-{kind}-{name}"


def is_complete(folder: Path) -> bool:
    """Whether every file that the folder's metadata lists exists, with the listed size and digest."""
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        # Folders of older versions list no digests.
        digests = metadata.get("digests", {})
        return all(
            (folder / name).stat().st_size == size and digests.get(name) in (None, digest(folder / name))
            for name, size in metadata["files"].items()
        )
    # Whatever is wrong with the metadata, the folder is converted again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def create_once(folder: Path, create: Callable[[Path], Any]) -> Path:
    """Return a folder of the cache, created first if it is missing or damaged; other processes wait meanwhile.

    Args:
        folder: The folder.
        create: Called with a new empty folder, to fill.

    Returns:
        The folder.

    Raises:
        RepositoryError: If the cache cannot be written.
    """
    if is_complete(folder):
        return folder
    advice = f"Set {CACHE_VARIABLE}, the folder of the cache, to one on a disk with space that you may write to."
    with _reporting_write_errors(folder.parent, advice):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            # Checked again: another process may have finished while this one waited for the lock.
            if not is_complete(folder):
                if folder.exists():
                    logger.warning("%s is incomplete or damaged; converting again", folder)
                write_atomically(folder, create, advice)
    return folder


def write_atomically(
    folder: Path,
    create: Callable[[Path], Any],
    advice: str = "Give a folder on a disk with space that you may write to.",
) -> None:
    """Create a folder completely or not at all, and remove what killed processes left of such attempts next to it.

    Args:
        folder: The folder; an existing one is replaced at the end.
        create: Called with a new empty folder next to it, to fill; nothing is left if it fails.
        advice: What to do if the folder cannot be written, for the message.

    Raises:
        RepositoryError: If it cannot be written.
    """
    with _reporting_write_errors(folder.parent, advice):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        # In the same parent folder, since a rename is atomic within one file system only.
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=_SCRATCH, dir=folder.parent))
        try:
            # Held as long as this process lives, so that others can tell.
            with FileLock(scratch / _LOCK):
                new = scratch / folder.name
                new.mkdir()
                create(new)
                if folder.exists():
                    # A folder that is not empty cannot be replaced by a rename, so the old one moves away first.
                    os.replace(folder, scratch / "replaced")
                os.replace(new, folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    """Remove scratch folders of processes that were killed while they wrote."""
    for scratch in parent.glob(f".*{_SCRATCH}"):
        lock = scratch / _LOCK
        # One that was made this moment has no lock yet.
        if not lock.exists() and time.time() - scratch.stat().st_mtime < _SECONDS_UNTIL_LOCKED:
            continue
        try:
            with FileLock(lock, timeout=0):
                shutil.rmtree(scratch, ignore_errors=True)
        except (OSError, Timeout):  # in use, or another user's
            continue


@contextmanager
def _reporting_write_errors(parent: Path, advice: str) -> Iterator[None]:
    try:
        yield
    except BridgeError:
        raise
    except OSError as error:
        if error.errno not in _WRITE_ERRORS or not _is_about(error, parent):
            raise
        raise RepositoryError(f"the folder {parent} cannot be written ({error}). {advice}") from error
    except RuntimeError as error:
        # MLX's own error for what it cannot write, which names no file.
        if not str(error).startswith("[write]"):
            raise
        raise RepositoryError(f"the folder {parent} cannot be written ({error}) {advice}") from error


def _is_about(error: OSError, parent: Path) -> bool:
    """Whether an error is about a folder or what is in it, and not about a file that was read."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return True
    path = Path(error.filename)
    return path.is_relative_to(parent) or parent.is_relative_to(path)
