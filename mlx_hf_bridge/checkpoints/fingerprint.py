"""Cheap digests of files: small ones are hashed as a whole, large ones by samples.

Sizes and modification times alone do not tell: tools that keep or normalize times (rsync, archives, image builds)
replace a file by one with the same two. Its inode and the time of its last change do, and so does what it holds.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.plain_files import KINDS, walk

# Files up to this size are hashed as a whole, in about a millisecond.
_SMALL = 2**20
# Of larger files: the beginning, where the header of a weight file is, the end, and samples between them.
_BEGINNING, _SAMPLE, _SAMPLES = 2**16, 2**12, 32


def digest(path: Path) -> str:
    """Return a digest of a file: of all of it up to 1 MiB, else of its size, beginning, end and samples in between.

    Args:
        path: The file.

    Returns:
        Hexadecimal digits.
    """
    hashed = hashlib.blake2b(digest_size=8)
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        hashed.update(str(size).encode())
        if size <= _SMALL:
            hashed.update(file.read(size))
            return hashed.hexdigest()
        hashed.update(file.read(_BEGINNING))
        for number in range(_SAMPLES + 1):
            file.seek(_BEGINNING + (size - _BEGINNING - _SAMPLE) * number // _SAMPLES)
            hashed.update(file.read(_SAMPLE))
    return hashed.hexdigest()


def folder_state(folder: Path) -> list[list[Any]]:
    """Return what tells whether a local model was changed.

    Args:
        folder: The model's folder; folders within it count, hidden ones and a trainer's checkpoints do not.

    Returns:
        For every file name, size, inode, times of modification and change in ns, and digest; JSON can hold it.
    """
    return [
        [
            path.relative_to(folder).as_posix(),
            stat.st_size,
            stat.st_ino,
            stat.st_mtime_ns,
            stat.st_ctime_ns,
            digest(path),
        ]
        for path, stat in _files(folder)
    ]


def content_state(folder: Path) -> list[list[Any]]:
    """Return name and digest of every file that `folder_state` has; a copy of the folder has the same.

    Args:
        folder: The model's folder.

    Returns:
        A list for each file.
    """
    return [[path.relative_to(folder).as_posix(), digest(path)] for path, _ in _files(folder)]


def small_content(folder: Path) -> list[list[Any]]:
    """Return name and digest of a folder's small files, without weights.

    Args:
        folder: A snapshot of a Hub repo, whose weights may not be downloaded yet.

    Returns:
        A list for each file.
    """
    return [
        [path.relative_to(folder).as_posix(), digest(path)]
        for path, _ in _files(folder)
        if path.suffix not in (".bin", ".safetensors")
    ]


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files that a model is read from, sorted."""
    found = [place / name for place, _, names in walk(folder) for name in names if Path(name).suffix in KINDS]
    for path in sorted(found):
        if path.is_file():
            yield path, path.stat()
