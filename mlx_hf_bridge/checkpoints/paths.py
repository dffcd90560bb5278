"""What lies inside a repo's folder: the paths that its files give, and the files that are copied out of it.

Repos are written by strangers. A path of theirs must not lead elsewhere when it is read or written, and a link of
theirs must not bring a private file into a folder that is published afterwards.
"""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from mlx_hf_bridge.errors import ConfigError, RepositoryError

logger = logging.getLogger(__name__)

# Limits of file systems for one name, in bytes; of paths, with room for the folder before them. Modules of modules lie
# a few folders deep.
_MOST_NAME_BYTES, _MOST_BYTES, _MOST_PARTS = 255, 1024, 32
# No weight file of a module is as large; a file of any length takes no space in an archive.
_MOST_COPIED_BYTES = 64 * 2**30


def relative_path(path: Any, where: Path | str) -> str:
    """Return a path that a file of a repo gives, checked to lie inside the repo's folder.

    Args:
        path: The path, with "/" between its parts.
        where: The file that gives it, named in the error.

    Returns:
        The path without "." parts; "" for the folder itself.

    Raises:
        ConfigError: If it is no text, leads outside the folder on any system, or is one that no file can have.
    """
    if not isinstance(path, str):
        raise ConfigError(f"{where} has the path {path!r:.80}, expected a text. Take the original file.")
    plain, windows = PurePosixPath(path), PureWindowsPath(path)
    # As in sentence-transformers: parts are read as Windows does too, where "C:x" and "a\\..\\b" leave the folder.
    if windows.anchor or plain.is_absolute() or ".." in windows.parts or "\0" in path:
        raise ConfigError(f"{where} has the path {path!r:.80}, which is outside the folder. Give a path within it.")
    # "replace" alone would let lone surrogates through, which no file system takes.
    encoded = [part.encode("utf-8", "surrogatepass") for part in plain.parts]
    is_text = all(part.decode("utf-8", "replace").encode() == part for part in encoded)
    longest, total = max(map(len, encoded), default=0), sum(map(len, encoded)) + len(encoded)
    if not is_text or longest > _MOST_NAME_BYTES or total > _MOST_BYTES or len(encoded) > _MOST_PARTS:
        raise ConfigError(
            f"{where} has the path {path!r:.80} of {len(path)} characters, which cannot be the name of a file. "
            "Take the original file."
        )
    return "" if str(plain) == "." else str(plain)


def is_inside(path: Path, root: Path) -> bool:
    """Return whether a file or folder lies inside a repo's folder, with all links followed.

    Args:
        path: The file or folder.
        root: The repo's folder. Files of a snapshot in the Hub's cache are links to the blobs of the same repo, which
            count as inside, and so do files of that cache that are named by the hash of their content.

    Returns:
        Whether it does.
    """
    # Not Path.resolve, which raises an error for links in a circle.
    real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    blobs = [parent.parent / "blobs" for parent in folder.parents if parent.name == "snapshots"]
    return any(real.is_relative_to(place) for place in (folder, *blobs)) or _is_blob(real)


def _is_blob(path: Path) -> bool:
    """Whether a file is one of the Hub's cache, named by the hash of its content.

    Older versions of huggingface_hub fill `local_dir` with links to these. Whoever can name one has its content.
    """
    return path.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", path.name) is not None


def check_inside(path: Path, root: Path) -> None:
    """Check that the links on the way to a file or folder stay inside a repo's folder.

    Args:
        path: The file or folder.
        root: The repo's folder.

    Raises:
        RepositoryError: If it lies elsewhere.
    """
    if not is_inside(path, root):
        raise RepositoryError(
            f"{path} is a link to {os.path.realpath(path)}, which is outside the model's folder {root}. "
            "Copy it into the folder if it belongs to the model, or remove the link."
        )


def copy_file(source: Path, target: Path, root: Path) -> bool:
    """Copy a file of a repo, if it is one; pipes, devices and links in a circle are left out with a warning.

    Args:
        source: The file, which may be absent.
        target: Where to copy it.
        root: The repo's folder.

    Returns:
        Whether it was copied.

    Raises:
        RepositoryError: If it is a link to a file outside the repo's folder, or larger than any module's weights.
    """
    if not source.is_file():
        if os.path.lexists(source):
            logger.warning("%s is not a plain file and is not copied", source)
        return False
    check_inside(source, root)
    if (size := source.stat().st_size) > _MOST_COPIED_BYTES:
        raise RepositoryError(f"{source} has {size} bytes, expected {_MOST_COPIED_BYTES} at most. Remove it.")
    shutil.copyfile(source, target)
    return True


def copy_folder(source: Path, target: Path, root: Path, skip: Sequence[str] = ()) -> None:
    """Copy the files of a folder and of the folders in it, each as `copy_file` does; links to folders are left out.

    Args:
        source: The folder.
        target: Where to copy it; created if needed.
        root: The repo's folder.
        skip: Names of files and folders to leave out, with "*" for any letters.

    Raises:
        RepositoryError: If it leads outside the repo's folder.
    """
    check_inside(source, root)
    for place, folders, names in os.walk(source):
        new = target / Path(place).relative_to(source)
        new.mkdir(parents=True, exist_ok=True)
        for name in folders:
            if Path(place, name).is_symlink():
                logger.warning("%s is a link to a folder and is not copied", Path(place, name))
        folders[:] = [name for name in folders if not _matches(name, skip)]
        for name in names:
            if not _matches(name, skip):
                copy_file(Path(place, name), new / name, root)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
