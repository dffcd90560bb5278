"""A folder of files on a local disk, or on anything else that pyarrow.fs opens: s3://, gs://, hdfs://.

A file that is written here appears when it is complete. On local and network disks it is written under a hidden name
and renamed; object stores show an object when its upload ends.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlx_hf_bridge.errors import BridgeError, InputError, RepositoryError
from mlx_hf_bridge.runtime.extras import require

_SCRATCH = ".scratch"


def pyarrow() -> Any:
    """Return pyarrow, which reads and writes the files of a corpus.

    Returns:
        The package, with its modules fs, parquet and ipc.

    Raises:
        BackendError: If it is not installed.
    """
    for module in ("fs", "parquet", "ipc"):
        package = require(f"pyarrow.{module}", "parquet", "Reading and writing the files of a corpus")
    return package


@dataclass(frozen=True)
class Storage:
    """A folder, and the pyarrow filesystem that it is on. It can be pickled.

    Args:
        filesystem: A pyarrow.fs.FileSystem.
        folder: The path of the folder there.
        local: Whether it is a local or network disk, where a file can be renamed.
    """

    filesystem: Any
    folder: str
    local: bool

    @classmethod
    def at(cls, location: str | os.PathLike[str]) -> Self:
        """Return the storage at a path or URI.

        Args:
            location: A path, or a URI that pyarrow.fs.FileSystem.from_uri understands.

        Returns:
            The storage; nothing is created.

        Raises:
            InputError: If pyarrow does not know the URI.
        """
        fs, text = pyarrow().fs, os.fspath(location)
        if "://" not in text:
            return cls(fs.LocalFileSystem(), str(Path(text).expanduser().absolute()), True)
        try:
            filesystem, path = fs.FileSystem.from_uri(text)
        except (ValueError, OSError) as error:
            raise InputError(f"{text} is not a URI that pyarrow opens ({error}). Give a path, or s3://...") from error
        return cls(filesystem, path, isinstance(filesystem, fs.LocalFileSystem))

    def path(self, name: str) -> str:
        """Return the path of a file by its name in the folder."""
        return f"{self.folder}/{name}" if name else self.folder

    def files(self, below: str = "", recursive: bool = False) -> list[tuple[str, int, int | None]]:
        """Return the files below a folder: names relative to this folder, sizes, and times of change in ns.

        Args:
            below: A folder in this folder. Default: this folder.
            recursive: Whether files in folders below it are listed too. Default: False.

        Returns:
            (name, size, time) in the order of their names; empty if there is no such folder. Hidden files, and those
            whose name begins with an underscore, are left out, as by Spark and pyarrow.dataset.
        """
        fs = pyarrow().fs
        selector = fs.FileSelector(self.path(below), allow_not_found=True, recursive=recursive)
        found = []
        for info in self.filesystem.get_file_info(selector):
            name = info.path[len(self.folder) :].lstrip("/")
            inside = name[len(below) :].lstrip("/")
            if info.type == fs.FileType.File and not any(part[0] in "._" for part in inside.split("/")):
                found.append((name, int(info.size), info.mtime_ns))
        return sorted(found)

    def open(self, name: str) -> Any:
        """Open a file for reading, from any position.

        Args:
            name: Its name in the folder.

        Returns:
            A pyarrow.NativeFile.
        """
        return self.filesystem.open_input_file(self.path(name))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file, or None if there is none.

        Args:
            name: Its name in the folder.

        Returns:
            What it contains.

        Raises:
            RepositoryError: If it is not a JSON object.
        """
        try:
            with self.open(name) as file:
                content = json.loads(file.read())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RepositoryError(f"{self.path(name)} is not JSON ({error}). Give another folder.") from error
        if not isinstance(content, dict):
            raise RepositoryError(f"{self.path(name)} is not a JSON object. Give another folder.")
        return content

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file.

        Args:
            name: Its name in the folder.
            content: What it is to contain.
        """
        self.write(name, lambda file: file.write(json.dumps(content, ensure_ascii=False).encode()))

    def write(self, name: str, fill: Callable[[Any], Any]) -> None:
        """Write a file completely or not at all; an existing one is replaced.

        Args:
            name: Its name in the folder, which is created if needed.
            fill: Called with a binary file, to write into.

        Raises:
            RepositoryError: If it cannot be written.
        """
        target = self.path(name)
        with _reporting_write_errors(target):
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            if not self.local:
                with self.filesystem.open_output_stream(target) as file:
                    fill(file)
                return
            parent, _, last = target.rpartition("/")
            # A name of its own: two processes may write the same file, and either of them may be killed.
            scratch = Path(parent, f".{last}.{uuid.uuid4().hex}{_SCRATCH}")
            try:
                with scratch.open("wb") as file:
                    fill(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(scratch, target)
            finally:
                scratch.unlink(missing_ok=True)

    def remove(self, names: list[str]) -> None:
        """Remove files, those that are not there too.

        Args:
            names: Their names in the folder.
        """
        for name in names:
            try:
                self.filesystem.delete_file(self.path(name))
            except FileNotFoundError:
                continue

    def remove_scratch(self, below: str = "") -> None:
        """Remove what killed processes left half written.

        Args:
            below: A folder in this folder. Default: this folder.
        """
        if self.local:
            for path in Path(self.path(below)).glob(f".*{_SCRATCH}"):
                path.unlink(missing_ok=True)


@contextmanager
def _reporting_write_errors(target: str) -> Iterator[None]:
    try:
        yield
    except BridgeError:
        raise
    except OSError as error:
        raise RepositoryError(
            f"{target} cannot be written ({error}). Free space there, or get permission to write, and run again: what "
            "was finished is kept."
        ) from error
