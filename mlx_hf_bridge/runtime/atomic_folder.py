"""Folders that are written completely or not at all, whatever happens to the process or the disk meanwhile."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mlx_hf_bridge.errors import BridgeError, RepositoryError
from mlx_hf_bridge.runtime.file_errors import check_encodable

# The end of the names of folders that are being written, the lock in them, and the name in them of what the new folder
# replaces.
SCRATCH, LOCK, _REPLACED = ".scratch", "lock", "replaced"
# The files that make a folder a model, in the order in which they are put there, and last of all.
_ENTRIES = ("modules.json", "config.json")
_ADVICE = "Give a folder on a disk with space that you may write to."
# Errors of a disk that cannot be written, where they name no file; others say themselves what they are about.
_DISK_ERRORS = {errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOLCK, errno.ENOSPC, errno.EROFS}


def write_atomically(folder: Path, create: Callable[[Path], Any], advice: str = _ADVICE) -> None:
    """Create a folder completely or not at all, and remove what killed processes left of such attempts next to it.

    Args:
        folder: The folder; an existing one is replaced at the end.
        create: Called with a new empty folder next to it, to fill; nothing is left if it fails.
        advice: What to do if the folder cannot be written, for the message.

    Raises:
        RepositoryError: If it cannot be written.
    """
    with reporting_write_errors(folder, advice):
        check_encodable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        # In the same parent folder, since a rename is atomic within one file system only.
        with _scratch_folder(folder.parent, folder.name) as new:
            create(new)
            if folder.exists():
                # A folder that is not empty cannot be replaced by a rename, so the old one moves away first.
                os.replace(folder, new.parent / _REPLACED)
            os.replace(new, folder)


@contextmanager
def filling(target: Path, is_obsolete: Callable[[str], bool] = lambda name: False) -> Iterator[Path]:
    """Fill a folder that may hold another model, so that no reader ever finds a mixture of the two.

    All files are written into a hidden folder within the target first, so that they are on its disk, and the target
    stays as it was if that fails. Then they are moved, which takes milliseconds and no space: a process that is killed
    meanwhile leaves a folder without config.json and modules.json, which is no model to any reader.

    Args:
        target: The folder; created if needed, and removed again if nothing comes of it. Other files in it stay.
        is_obsolete: Called with the name of each file in the folder that is not replaced; returns whether to delete it.

    Yields:
        An empty folder, whose files and folders are moved into the target.

    Raises:
        RepositoryError: If it cannot be written.
    """
    with _filled(target) as new:
        yield new
        written = {path.name for path in new.iterdir()}
        try:
            _move_into(target, new, lambda name: is_obsolete(name) and name not in written)
        except KeyboardInterrupt:
            # Every step can be repeated, and there are only milliseconds left to work.
            _move_into(target, new, lambda name: is_obsolete(name) and name not in written)
            raise


@contextmanager
def replacing_files(target: Path) -> Iterator[Path]:
    """Replace files of a model's folder, each by one rename; the folder is a model at every moment.

    Args:
        target: The folder; created if needed, and removed again if nothing comes of it. Other files in it stay.

    Yields:
        An empty folder, whose files replace those of the same name, in the order of their names.

    Raises:
        RepositoryError: If it cannot be written.
    """
    with _filled(target) as new:
        yield new
        for path in sorted(path.relative_to(new) for path in new.rglob("*") if not path.is_dir()):
            (target / path).parent.mkdir(exist_ok=True)
            os.replace(new / path, target / path)


@contextmanager
def _filled(target: Path) -> Iterator[Path]:
    """Yield a scratch folder in a folder that is created if needed, and removed again if it stays empty."""
    is_new = not target.exists()
    # "." and ".." are no names for a folder in the scratch folder.
    target = target.resolve() if target.name in ("", "..") else target
    with reporting_write_errors(target):
        check_encodable(target)
        target.mkdir(parents=True, exist_ok=True)
        try:
            with _scratch_folder(target, target.name) as new:
                yield new
        finally:
            if is_new:
                # Which does nothing if there is something in it.
                with suppress(OSError):
                    target.rmdir()


def _move_into(target: Path, new: Path, is_obsolete: Callable[[str], bool]) -> None:
    for entry in reversed(_ENTRIES):
        if (new / entry).exists():
            (target / entry).unlink(missing_ok=True)
        elif (target / entry).exists():
            # One that stays as it is moves out and back.
            os.replace(target / entry, new / entry)
    for path in target.iterdir():
        if is_obsolete(path.name):
            path.unlink()
    names = [path.relative_to(new) for path in sorted(new.rglob("*"))]
    for name in sorted(names, key=lambda name: _ENTRIES.index(str(name)) if str(name) in _ENTRIES else -1):
        if (new / name).is_dir():
            (target / name).mkdir(exist_ok=True)
        else:
            os.replace(new / name, target / name)


@contextmanager
def _scratch_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new empty folder of that name, in a hidden folder that is removed at the end.

    The hidden folder has a lock, which is held as long as this process lives, so that others can tell.
    """
    remove_abandoned(parent)
    while True:
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=SCRATCH, dir=parent))
        try:
            with FileLock(scratch / LOCK):
                # Gone if another process took it for abandoned before it was locked.
                if (scratch / LOCK).exists():
                    new = scratch / name
                    new.mkdir()
                    yield new
                    return
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def abandoned(parent: Path) -> Iterator[Path]:
    """Find the scratch folders of processes that were killed while they wrote.

    Args:
        parent: The folder that they lie in; it need not exist.

    Yields:
        Each of them, locked until the next one is asked for.
    """
    for scratch in sorted(parent.glob(f".*{SCRATCH}")):
        lock = scratch / LOCK
        try:
            # An empty one without a lock, too: a process that has not locked its new folder yet makes another one. One
            # with files and no lock is somebody else's.
            if not lock.exists() and any(scratch.iterdir()):
                continue
            with FileLock(lock, timeout=0):
                yield scratch
        except (OSError, Timeout):  # in use, gone meanwhile, or another user's
            continue


def remove_abandoned(parent: Path) -> None:
    """Remove scratch folders of processes that were killed while they wrote; finish what lacked only the last step.

    Args:
        parent: The folder that they lie in.
    """
    for scratch in abandoned(parent):
        # Killed between its two renames: the new folder is complete, and the old one is out of its place.
        if (scratch / _REPLACED).exists():
            for new in scratch.iterdir():
                if new.is_dir() and new.name != _REPLACED and not (parent / new.name).exists():
                    with suppress(OSError):
                        os.replace(new, parent / new.name)
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def reporting_write_errors(folder: Path, advice: str = _ADVICE) -> Iterator[None]:
    """Raise RepositoryError for errors about a folder that cannot be written; others pass.

    Args:
        folder: The folder.
        advice: What to do, for the message.

    Yields:
        Nothing.

    Raises:
        RepositoryError: If the folder, or the disk that it is on, cannot be written.
    """
    where = f"the folder {_visible(folder.parent)!s:.300} cannot be written"
    try:
        yield
    except BridgeError:
        raise
    except OSError as error:
        if not _is_about(error, folder):
            raise
        raise RepositoryError(f"{where} ({error!s:.400}). {advice}") from error
    except NotImplementedError as error:  # a file system without locks (filelock)
        raise RepositoryError(f"{where} ({error!s:.400}). {advice}") from error
    except RuntimeError as error:
        # MLX's own error for what it cannot write, which names no file.
        if not str(error).startswith("[write]"):
            raise
        raise RepositoryError(f"{where} ({error!s:.400}) {advice}") from error
    except Exception as error:
        # An error of the disk in tokenizers, which has no class for it.
        if type(error) is not Exception or "(os error " not in str(error):
            raise
        raise RepositoryError(f"{where} ({error!s:.400}). {advice}") from error


def _visible(folder: Path) -> Path:
    """Return the folder that a scratch folder stands for."""
    hidden = [parent for parent in (folder, *folder.parents) if parent.name.endswith(SCRATCH)]
    return hidden[-1].parent if hidden else folder


def _is_about(error: OSError, folder: Path) -> bool:
    """Whether an error is about a folder, what leads to it or is made for it, or the disk; not about a source file."""
    # Of copying a folder: a list of files, each with the text of its error.
    if isinstance(error, shutil.Error):
        return True
    # A copy has two names, and the disk is that of the second.
    named = error.filename if error.filename2 is None else error.filename2
    if not isinstance(named, (str, os.PathLike)):
        return error.errno in _DISK_ERRORS
    path, parent = Path(named), folder.parent
    if parent.is_relative_to(path):
        return True
    inside = path.relative_to(parent).parts[0] if path.is_relative_to(parent) else ""
    return inside in (folder.name, f"{folder.name}.lock") or inside.startswith(f".{folder.name}-")
