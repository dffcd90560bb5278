"""The files of a corpus: which they are, what identifies them, and how their rows are divided into units of work.

This reads the footers of Parquet and Arrow files, and text files once. The same files give the same units on every
machine, which is what shards of a corpus rely on.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mlx_hf_bridge.corpora.storage import Storage, pyarrow
from mlx_hf_bridge.errors import InputError

logger = logging.getLogger(__name__)

PARQUET, ARROW, JSONL, CSV = "parquet", "arrow", "jsonl", "csv"
_FORMATS = {
    ".parquet": PARQUET,
    ".arrow": ARROW,
    ".feather": ARROW,
    ".ipc": ARROW,
    ".jsonl": JSONL,
    ".ndjson": JSONL,
    ".csv": CSV,
    ".tsv": CSV,
}
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_BLOCK = 2**20
# The end of a Parquet or Arrow file describes all of it; together with the size, this identifies the file.
_ENDS = 2**16


@dataclass(frozen=True)
class InputFile:
    """A file of a corpus.

    Args:
        name: Its path, relative to the folder of the corpus.
        size: Its size in bytes.
        modified: Its time of change in ns; None where the filesystem has none.
        fingerprint: A digest: of the whole file for text, of the size and both ends for Parquet and Arrow.
    """

    name: str
    size: int
    modified: int | None
    fingerprint: str = ""


@dataclass(frozen=True)
class Unit:
    """A range of rows of one file, which one process computes and writes as one file.

    Args:
        number: Its number among all units of the corpus.
        file: The file.
        first_row: The number of its first row in the file.
        rows: How many rows it has; None if that is known only after reading them.
        start, stop: The bytes of a JSONL file in which these rows are; None for other files.
    """

    number: int
    file: InputFile
    first_row: int = 0
    rows: int | None = None
    start: int | None = None
    stop: int | None = None

    @property
    def output(self) -> str:
        """The name of the file with its results."""
        return f"part-{self.number:06d}.parquet"

    @property
    def identity(self) -> list[Any]:
        """What its results depend on, besides the settings."""
        return [self.file.name, self.file.fingerprint, self.first_row, self.rows]


def format_of(name: str) -> str | None:
    """Return the format of a file by its name: "parquet", "arrow", "jsonl", "csv", or None for any other."""
    return _FORMATS.get(_suffix(name.lower()))


def is_compressed(name: str) -> bool:
    """Return whether a text file is compressed, so that reading begins at its start."""
    return name.lower().endswith(_COMPRESSED)


def find_files(inputs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> tuple[Storage, list[InputFile]]:
    """Find the files of a corpus.

    Args:
        inputs: A file, a folder, which is searched with all folders below it, or a list of files.

    Returns:
        The folder that they are in, and the files in the order of their names, as yet without fingerprints.

    Raises:
        InputError: If there are none, or a file is in no known format.
    """
    if not isinstance(inputs, (str, os.PathLike)):
        return _listed([os.fspath(path) for path in inputs])
    storage = Storage.at(inputs)
    if _info(storage).type == pyarrow().fs.FileType.File:
        return _listed([os.fspath(inputs)])
    every = [InputFile(*found) for found in storage.files(recursive=True)]
    files = [file for file in every if format_of(file.name)]
    if not files:
        raise InputError(
            f"{os.fspath(inputs)} has no files to read. Give a file, or a folder of files, that end in "
            f"{', '.join(_FORMATS)}."
        )
    if len(files) < len(every):
        others = sorted({PurePosixPath(file.name).suffix or file.name for file in every} - set(_FORMATS))
        logger.warning("%d files are left out, which are in no known format: %s", len(every) - len(files), others)
    return storage, files


def divide(storage: Storage, file: InputFile, rows_per_unit: int) -> tuple[str, list[dict[str, Any]]]:
    """Read what identifies a file, and divide its rows.

    Args:
        storage: The folder that it is in.
        file: The file.
        rows_per_unit: How many rows a unit has; the last one of a file may have fewer. CSV and compressed files are
            not divided.

    Returns:
        The fingerprint, and for each unit the arguments of `Unit` besides its number and file. A file that cannot be
        read is one unit, whose processing reports what is wrong with it.
    """
    kind = format_of(file.name)
    if kind == JSONL and not is_compressed(file.name):
        return _divide_lines(storage, file, rows_per_unit)
    if kind in (JSONL, CSV):
        return _digest(storage, file, whole=True), [{}]
    fingerprint = _digest(storage, file, whole=False)
    try:
        total = _count_rows(storage, file)
    except (pyarrow().ArrowException, OSError):
        return fingerprint, [{}]
    starts = range(0, total, rows_per_unit) if total else [0]
    return fingerprint, [{"first_row": row, "rows": min(rows_per_unit, total - row)} for row in starts]


def _listed(paths: list[str]) -> tuple[Storage, list[InputFile]]:
    """Return files that are given one by one; their folder is the one that all of them are in."""
    if not paths:
        raise InputError("got no files, expected at least one.")
    storages = [Storage.at(path) for path in paths]
    folder = os.path.commonpath([str(PurePosixPath(one.folder).parent) for one in storages])
    fs, files = pyarrow().fs, []
    for path, storage in zip(paths, storages, strict=True):
        info = _info(storage)
        if info.type != fs.FileType.File:
            raise InputError(f"there is no file {path}. Check the path.")
        if format_of(storage.folder) is None:
            raise InputError(f"{path} is in no known format. Give files that end in {', '.join(_FORMATS)}.")
        files.append(InputFile(storage.folder[len(folder) :].lstrip("/"), int(info.size), info.mtime_ns))
    if len({file.name for file in files}) < len(files):
        raise InputError("the list of files has a file twice. Give each of them once.")
    return Storage(storages[0].filesystem, folder, storages[0].local), files


def _info(storage: Storage) -> Any:
    """Return what kind of thing is at a path, and its size and time."""
    try:
        return storage.filesystem.get_file_info(storage.folder)
    # ValueError: pyarrow's for NUL, and that of encoding a lone surrogate.
    except (OSError, ValueError) as error:
        raise InputError(f"{storage.folder!a:.300} cannot be a file ({error!s:.200}). Check the path.") from error


def _suffix(name: str) -> str:
    path = PurePosixPath(name)
    return PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def _digest(storage: Storage, file: InputFile, whole: bool) -> str:
    found = hashlib.sha256(str(file.size).encode())
    with storage.open(file.name) as stream:
        if whole:
            while block := stream.read(_BLOCK):
                found.update(block)
        else:
            found.update(stream.read(_ENDS))
            stream.seek(max(0, file.size - _ENDS))
            found.update(stream.read(_ENDS))
    return found.hexdigest()[:32]


def _divide_lines(storage: Storage, file: InputFile, rows_per_unit: int) -> tuple[str, list[dict[str, Any]]]:
    """Divide a JSONL file at ends of lines, reading it once."""
    found, lines, position = hashlib.sha256(str(file.size).encode()), 0, 0
    starts = [(0, 0)]
    with storage.open(file.name) as stream:
        while block := stream.read(_BLOCK):
            found.update(block)
            at = block.find(b"\n")
            while at >= 0:
                lines += 1
                if lines % rows_per_unit == 0:
                    starts.append((position + at + 1, lines))
                at = block.find(b"\n", at + 1)
            position, last = position + len(block), block[-1:]
    if position and last != b"\n":
        lines += 1
    if len(starts) > 1 and starts[-1][0] == position:
        starts.pop()
    ends = [*starts[1:], (position, lines)]
    ranges = [
        {"first_row": row, "rows": last_row - row, "start": start, "stop": stop}
        for (start, row), (stop, last_row) in zip(starts, ends, strict=True)
    ]
    return found.hexdigest()[:32], ranges


def _count_rows(storage: Storage, file: InputFile) -> int:
    with storage.open(file.name) as stream:
        if format_of(file.name) == PARQUET:
            return int(pyarrow().parquet.read_metadata(stream).num_rows)
        return sum(batch.num_rows for batch in arrow_batches(stream))


def arrow_batches(stream: Any) -> Any:
    """Return an iterator over the record batches of an Arrow file, in either of the two forms: file and stream.

    Args:
        stream: The opened file.

    Returns:
        Record batches.
    """
    ipc = pyarrow().ipc
    try:
        reader = ipc.open_file(stream)
    except pyarrow().ArrowInvalid:
        # What datasets.Dataset.save_to_disk writes.
        stream.seek(0)
        return iter(ipc.open_stream(stream))
    return (reader.get_batch(number) for number in range(reader.num_record_batches))
