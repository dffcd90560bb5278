"""Refuse a repo in which something else stands where a file of a model should be.

A link to a missing file would be a model without that file: without its pooling, its special tokens or its prompts, so
that its vectors would be others. A link that leads outside would read a file of somebody else; a pipe or a device has
no end.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from mlx_hf_bridge.checkpoints.paths import check_inside, is_inside
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.inference.template_files import TEMPLATE_FOLDER

# Everything that is read of a model besides its weights, by suffix; a Hub repo's files of these kinds are downloaded.
_SUFFIXES = "bpe codes jinja json metadata model spm tiktoken tokenizer txt vocab"
SMALL_KINDS = tuple(f".{suffix}" for suffix in _SUFFIXES.split())
# What a model is read from; results, logs and exports for other runtimes do not count.
KINDS = {*SMALL_KINDS, ".bin", ".md", ".safetensors"}
# Of texts, which may be anything in a folder, those that are read.
_TEXTS = ("README.md", "vocab.txt", "merges.txt", "dict.txt")
# Folders of a trainer's checkpoints, which lie in the folder of the model that they become.
_TRAINING_FOLDERS = "checkpoint-"
# Modules of modules lie in folders of folders; deeper ones are no part of a model.
_DEPTH = 6


def walk(folder: Path, root: Path | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Walk the folders that a model may be read from; links are followed, each folder once, to none outside.

    Args:
        folder: The model's folder.
        root: The folder of the whole repo; None for the same one.

    Yields:
        Each folder, with the names of the folders and of everything else in it.
    """
    seen: set[str] = set()
    for name, folders, names in os.walk(folder, followlinks=True):
        place = Path(name)
        # Links may lead back to a folder that contains them.
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield place, list(folders), names
        deepest = len(place.relative_to(folder).parts) == _DEPTH
        folders[:] = [
            name
            for name in folders
            if not (deepest or name.startswith((".", _TRAINING_FOLDERS))) and is_inside(place / name, root or folder)
        ]


def check_files(folder: Path, root: Path) -> None:
    """Check that every name that a model's file has is a plain file within the repo.

    Args:
        folder: The model's folder; the folders in it count too.
        root: The folder of the whole repo.

    Raises:
        RepositoryError: If one is a link to nothing or to a file elsewhere, a pipe, a device or a folder.
    """
    for place, folders, names in walk(folder, root):
        for name in (*folders, *names):
            if name == TEMPLATE_FOLDER:
                _check_folder(place / name, root)
            elif _is_read(name):
                has_file(place / name, root)


def has_file(path: Path, root: Path) -> bool:
    """Return whether a file is there.

    Args:
        path: The file.
        root: The folder of the whole repo.

    Returns:
        True for a plain file, False if there is nothing of that name.

    Raises:
        RepositoryError: If it is anything else, or a link that leads out of the repo.
    """
    if not os.path.lexists(path):
        return False
    if path.is_symlink():
        _check_link(path, root)
    if not path.is_file():
        raise RepositoryError(f"{path} is not a plain file. Download or copy the file again, or remove it.")
    return True


def _check_folder(path: Path, root: Path) -> None:
    if path.is_symlink():
        _check_link(path, root)
    if not path.is_dir():
        raise RepositoryError(f"{path} is not a folder. Download or copy the folder again, or remove it.")


def _check_link(path: Path, root: Path) -> None:
    if not path.exists():
        raise RepositoryError(f"{path} is a link to a missing file. Download or copy the file again, or remove it.")
    check_inside(path, root)


def _is_read(name: str) -> bool:
    """Whether a model may be read from a file of that name."""
    suffix = Path(name).suffix
    if name.startswith(".") or suffix not in KINDS:
        return False
    return suffix not in (".md", ".txt") or name in _TEXTS
