"""The file of an index: embeddings and passages together, replaced at once, so that no reader finds parts of two."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.folder_index.documents import Passage

_FORMAT = "1"


@dataclass(frozen=True, eq=False)
class IndexedFile:
    """A file of the folder as it was when it was indexed.

    Attributes:
        mtime_ns: Its modification time.
        size: Its size in bytes.
        digest: The SHA-256 of its content.
        passages: Its passages.
        vectors: Their embeddings (N, V), float32, of length 1.
    """

    mtime_ns: int
    size: int
    digest: str
    passages: list[Passage]
    vectors: np.ndarray


@dataclass
class Index:
    """What an index file holds.

    Attributes:
        model: The model's Hub id or folder.
        recipe: The name of its quantization; None for none.
        identity: A digest of the model's files and quantization.
        files: The indexed files by their paths in the folder.
    """

    model: str
    recipe: str | None
    identity: str
    files: dict[str, IndexedFile] = field(default_factory=dict)

    def vectors(self) -> np.ndarray:
        """Return the embeddings of all passages (N, V), in the order of files."""
        filled = [file.vectors for file in self.files.values() if len(file.vectors)]
        return np.concatenate(filled) if filled else np.zeros((0, 0), np.float32)

    def passages(self) -> list[tuple[str, Passage]]:
        """Return all passages with the paths of their files, in the order of `vectors`."""
        return [(path, passage) for path, file in self.files.items() for passage in file.passages]


def load_index(path: Path) -> Index | None:
    """Read an index.

    Args:
        path: Its file.

    Returns:
        The index; None if there is none, or it is damaged or of another version, so that it must be built.

    Raises:
        RepositoryError: If the file is not an index, and must not be replaced.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata, vectors = file.metadata() or {}, file.get_tensor("vectors")
            content = bytes(file.get_tensor("passages"))
    except (SafetensorError, OSError) as error:
        raise RepositoryError(f"{path} is not an index of `search` ({error}). Delete it, or give another.") from error
    if metadata.get("format") != _FORMAT or metadata.get("digest") != _digest(vectors, content):
        return None
    return _read(metadata, vectors, json.loads(content))


def save_index(index: Index, path: Path) -> None:
    """Write an index next to its place, and rename it.

    Args:
        index: The index.
        path: Its file; one that exists is replaced.

    Raises:
        RepositoryError: If it cannot be written.
    """
    vectors = index.vectors()
    files = {
        name: [file.mtime_ns, file.size, file.digest, [[p.first_line, p.last_line, p.text] for p in file.passages]]
        for name, file in index.files.items()
    }
    # Names of files that are not UTF-8 have lone surrogates, which JSON can hold as escapes.
    content = json.dumps(files).encode()
    metadata = {
        "format": _FORMAT,
        "model": index.model,
        "recipe": index.recipe or "",
        "identity": index.identity,
        "digest": _digest(vectors, content),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as new:
            scratch = Path(new.name)
        try:
            save_file({"vectors": vectors, "passages": np.frombuffer(content, np.uint8)}, scratch, metadata)
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise RepositoryError(
            f"the index {path} cannot be written ({error}). Give --index a file elsewhere."
        ) from error


def _read(metadata: dict[str, str], vectors: np.ndarray, content: dict[str, Any]) -> Index:
    index, row = Index(metadata["model"], metadata["recipe"] or None, metadata["identity"]), 0
    for name, (mtime_ns, size, digest, rows) in content.items():
        passages = [Passage(text, first, last) for first, last, text in rows]
        index.files[name] = IndexedFile(mtime_ns, size, digest, passages, vectors[row : row + len(passages)])
        row += len(passages)
    return index


def _digest(vectors: np.ndarray, content: bytes) -> str:
    hashed = hashlib.blake2b(content, digest_size=16)
    hashed.update(np.ascontiguousarray(vectors).data if vectors.size else b"")
    return hashed.hexdigest()
