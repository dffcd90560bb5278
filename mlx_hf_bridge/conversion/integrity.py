"""Whether a converted folder is still as it was written: its metadata lists sizes, digests and checksums of its files.

A digest reads all of a small file and samples of a large one, which a load can afford; a checksum (SHA-256) reads every
byte, which `mlx-hf-bridge cache verify` does.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE, VERIFICATION_FILE
from mlx_hf_bridge.checkpoints.fingerprint import digest
from mlx_hf_bridge.checkpoints.paths import relative_path
from mlx_hf_bridge.checkpoints.plain_files import KINDS
from mlx_hf_bridge.checkpoints.repo_files import write_json

# Written into a converted folder later, and read by no model.
_ADDED_LATER = (METADATA_FILE, VERIFICATION_FILE, "README.md")
_CHECKSUM = "checksum"


@dataclass(frozen=True)
class Damage:
    """One file of a converted folder that is not as it was written.

    Attributes:
        file: Its path in the folder, with "/" between the parts.
        what: What is wrong with it, such as "is missing" or "has 10 bytes, expected 20".
    """

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


def write_metadata(
    folder: Path, metadata: Mapping[str, Any], files: Iterable[Path], target: Path | None = None
) -> dict[str, Any]:
    """Write conversion_metadata.json with the sizes, digests and checksums of the folder's files, and one of its own.

    Args:
        folder: The converted folder, with all of its files.
        metadata: What else the metadata says.
        files: The files of the folder to list.
        target: The folder to write to; None for the same one.

    Returns:
        The metadata as written.
    """
    named = {path.relative_to(folder).as_posix(): path for path in sorted(files)}
    content = {
        **metadata,
        "files": {name: path.stat().st_size for name, path in named.items()},
        # A file that decays is noticed by these.
        "digests": {name: digest(path) for name, path in named.items()},
        "sha256": {name: _sha256(path) for name, path in named.items()},
    }
    content[_CHECKSUM] = _own_checksum(content)
    write_json((target or folder) / METADATA_FILE, content)
    return content


def read_metadata(folder: Path) -> dict[str, Any] | None:
    """Return the content of a folder's conversion_metadata.json.

    Args:
        folder: A folder.

    Returns:
        The metadata; None if there is none, or none that can be read.
    """
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) else None


def is_complete(folder: Path) -> bool:
    """Return whether every file that a folder's metadata lists exists, with the listed size and digest.

    Args:
        folder: A converted folder; it need not exist.

    Returns:
        Whether it is complete.
    """
    return next(find_damage(folder), None) is None


def find_damage(folder: Path, every_byte: bool = False) -> Iterator[Damage]:
    """Compare a converted folder with its metadata.

    Args:
        folder: A converted folder; it need not exist.
        every_byte: Whether to read all of the weights instead of samples.

    Yields:
        What is wrong with each file that is not as it was written.
    """
    metadata = read_metadata(folder)
    if metadata is None:
        # Not Path.exists, which raises an error for a path that is too long.
        found = os.path.lexists(folder / METADATA_FILE)
        yield Damage(METADATA_FILE, "cannot be read" if found else "is missing")
        return
    # Folders of older versions have no checksums, and older ones no digests.
    if _CHECKSUM in metadata and metadata[_CHECKSUM] != _own_checksum(metadata):
        yield Damage(METADATA_FILE, "has changed")
        return
    sizes, digests, checksums = (metadata.get(key, {}) for key in ("files", "digests", "sha256"))
    if not (isinstance(sizes, dict) and sizes and isinstance(digests, dict) and isinstance(checksums, dict)):
        yield Damage(METADATA_FILE, "lists no files")
        return
    for name, size in sizes.items():
        if what := _damage(folder, name, size, digests.get(name), checksums.get(name) if every_byte else None):
            yield Damage(name, what)


def find_strays(folder: Path) -> Iterator[Damage]:
    """Look for files in a converted folder that the conversion did not write and that a model is read from.

    Args:
        folder: A converted folder with metadata.

    Yields:
        Each such file.
    """
    listed = (read_metadata(folder) or {}).get("files", {})
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in KINDS and name not in (*_ADDED_LATER, *listed):
            yield Damage(name, "is not of the conversion")


def _damage(folder: Path, name: str, size: Any, digest_then: Any, checksum_then: Any) -> str | None:
    try:
        path = folder / relative_path(name, METADATA_FILE)
        # A pipe in its place would never end.
        if not path.is_file():
            return "is missing"
        if (size_now := path.stat().st_size) != size:
            return f"has {size_now} bytes, expected {size}"
        if digest_then not in (None, digest(path)):
            return "has changed"
        if checksum_then not in (None, checksum_then and _sha256(path)):
            return "has changed where loading does not look"
    except (OSError, ValueError) as error:
        return f"cannot be read ({error})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_checksum(metadata: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in metadata.items() if key != _CHECKSUM}
    # sort_keys: equal content must give equal text. It goes through JSON once more, as it is after reading.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(rest)), sort_keys=True).encode()).hexdigest()
