"""Remove models and leftovers from the cache, while other processes convert and load."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mlx_hf_bridge.cache.inventory import CachedModel, Leftover
from mlx_hf_bridge.conversion.usage import converted_folder, exclusive
from mlx_hf_bridge.runtime.atomic_folder import LOCK, SCRATCH, abandoned
from mlx_hf_bridge.runtime.boundary import guarded


@dataclass(frozen=True)
class Removal:
    """What `remove` did.

    Attributes:
        removed: What is gone.
        kept: What could not be removed, with the reason: "is in use by a process", ...
    """

    removed: tuple[CachedModel | Leftover, ...]
    kept: tuple[tuple[CachedModel | Leftover, str], ...]

    @property
    def freed(self) -> int:
        """Bytes of all files that were removed."""
        return sum(item.size for item in self.removed)


@guarded
def remove(items: Iterable[CachedModel | Leftover]) -> Removal:
    """Remove models and leftovers from the cache.

    A model that a process has loaded, or is converting, is kept. One that is removed is converted again when it is next
    loaded.

    Args:
        items: Models and leftovers, as `scan_cache` returned them.

    Returns:
        What was removed, and what was kept and why.
    """
    removed, kept = [], []
    for item in items:
        reason = _remove_model(item.folder) if isinstance(item, CachedModel) else _remove_leftover(item)
        if reason is None:
            removed.append(item)
        else:
            kept.append((item, reason))
    return Removal(tuple(removed), tuple(kept))


def _remove_model(folder: Path) -> str | None:
    """Remove a converted folder and its locks; return why not, if it must stay."""
    lock = Path(f"{folder}.lock")
    try:
        with FileLock(lock, timeout=0), exclusive(folder) as is_free:
            if not is_free:
                return "is in use by a process"
            # Out of its place at once: a load finds all of it or nothing, and another process can finish this.
            scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=SCRATCH, dir=folder.parent))
            with FileLock(scratch / LOCK), suppress(FileNotFoundError):
                os.replace(folder, scratch / folder.name)
            lock.unlink(missing_ok=True)
    except Timeout:
        return "is being converted by a process"
    except OSError as error:
        return f"cannot be removed ({error})"
    shutil.rmtree(scratch, ignore_errors=True)
    return "cannot be removed completely" if scratch.exists() else None


def _remove_leftover(item: Leftover) -> str | None:
    try:
        if item.kind == "scratch":
            for scratch in abandoned(item.path.parent):
                if scratch == item.path:
                    shutil.rmtree(scratch, ignore_errors=True)
        elif item.kind == "calibration":
            shutil.rmtree(item.path, ignore_errors=True)
        elif item.path.suffix == ".lock":
            with FileLock(item.path, timeout=0):
                item.path.unlink(missing_ok=True)
        else:
            # Which removes it, as its folder is gone.
            with exclusive(converted_folder() / item.path.name) as is_free:
                if not is_free:
                    return "is in use by a process"
    except Timeout:
        return "is in use by a process"
    except OSError as error:
        return f"cannot be removed ({error})"
    return "cannot be removed completely, or is in use" if item.path.exists() else None
