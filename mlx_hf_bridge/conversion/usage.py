"""Which folders of the cache are in use, by locks that many processes share, and when each was last used.

A process that has a model of a converted folder may read it again: to copy the model, to save it, or to start worker
processes. It therefore holds a shared lock as long as the model lives, and what removes folders asks for an exclusive
one. The locks lie beside the folders, in `in_use`, since a folder's own files must stay as they were written; the time
of a lock's file is the time of its folder's last use.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_hf_bridge.runtime.environment import bridge_cache

_LOCKS = "in_use"


class Use:
    """A shared lock on a folder of the cache, released with the last reference to it.

    Args:
        descriptor: The open file that holds the lock.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


def converted_folder() -> Path:
    """Return the folder that the converted folders of the cache lie in; it need not exist.

    Returns:
        Its path.
    """
    return bridge_cache() / "converted"


def use(folder: Path) -> Use | None:
    """Note that this process uses a folder, and keep others from removing it.

    Args:
        folder: A converted folder; it need not exist.

    Returns:
        What to keep as long as the folder may be read; None if it does not lie in the cache, or the cache cannot be
        written: then nothing can be removed from it either.
    """
    if os.path.realpath(folder.parent) != os.path.realpath(converted_folder()):
        return None
    path = lock_path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                os.utime(descriptor)
                # Whoever removed the folder while this one waited has removed the lock's file too.
                if os.fstat(descriptor).st_nlink:
                    return Use(descriptor)
            except OSError:
                os.close(descriptor)
                raise
            os.close(descriptor)
    # Another user's, a read-only disk, or a file system without locks.
    except OSError:
        return None


@contextmanager
def exclusive(folder: Path) -> Iterator[bool]:
    """Keep every process from starting to use a folder.

    Args:
        folder: A converted folder of the cache.

    Yields:
        Whether nobody uses it. The lock's file is removed afterwards if the folder is gone then.
    """
    path = lock_path(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
        if not folder.exists():
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def is_in_use(folder: Path) -> bool:
    """Return whether a process uses a folder, or is about to.

    Args:
        folder: A converted folder of the cache; it need not exist.

    Returns:
        Whether one does; False if that cannot be told.
    """
    try:
        descriptor = os.open(lock_path(folder), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def last_used(folder: Path) -> float | None:
    """Return when a process last loaded a folder.

    Args:
        folder: A converted folder of the cache.

    Returns:
        Seconds since 1970; None if that is not known.
    """
    try:
        return lock_path(folder).stat().st_mtime
    except OSError:
        return None


def lock_folder() -> Path:
    """Return the folder of the locks of the cache; it need not exist.

    Returns:
        Its path.
    """
    return lock_path(converted_folder() / "any").parent


def lock_path(folder: Path) -> Path:
    """Return the path of the lock of a folder of the cache.

    Args:
        folder: A converted folder of the cache.

    Returns:
        The path; it need not exist.
    """
    # All links followed, so that every spelling of the cache leads to the same lock.
    return Path(os.path.realpath(folder.parent)).parent / _LOCKS / folder.name
