"""Vectors on disk, a chunk at a time, that a crash cannot spoil.

While the work lasts, PATH.partial/ holds vectors.npy and progress.json, which says how many of the vectors count, of
which texts, and how they were made. It is replaced after the vectors have reached the disk, so it never claims more
than there is; what a crash left behind them is cut off. PATH itself appears when it is complete.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from filelock import FileLock, Timeout

from mlx_hf_bridge.errors import InputError, RepositoryError

_FORMAT = 1
_SKIPPED_AT_A_TIME = 2048


class CorpusFile:
    """A .npy file (rows, V) in the making; a context that one process can be in at a time.

    settings: whatever made the vectors, as JSON. row (V,): one of the vectors. restart: forget what an earlier run has
    left. Raises InputError where that was made otherwise, RepositoryError where it cannot be read or is in use.
    """

    def __init__(self, path: Path, settings: dict[str, Any], row: np.ndarray, restart: bool = False) -> None:
        self.path, self.folder = path, path.with_name(f"{path.name}.partial")
        self.rows = 0
        self._settings = {**settings, "width": len(row), "type": row.dtype.str}
        self._row = row
        self._texts = hashlib.sha256()
        self._restart = restart
        self._lock = FileLock(str(self.folder / "lock"), timeout=0)

    def __enter__(self) -> Self:
        self.folder.mkdir(exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise RepositoryError(f"{self.folder} is in use by another process. Wait for it, or end it.") from error
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self._lock.release()
        if not self.rows and self.folder.is_dir():
            shutil.rmtree(self.folder)

    def skip(self, texts: Iterator[Any]) -> None:
        """Read past the texts that are done; InputError where they are other ones."""
        left = self.rows
        while part := list(islice(texts, min(left, _SKIPPED_AT_A_TIME))):
            self._note(part)
            left -= len(part)
        if left or (self.rows and self._texts.hexdigest() != self._done_texts):
            fault = f"there are {self.rows - left} texts now" if left else "the texts are other ones now"
            raise InputError(
                f"{self.folder} holds the vectors of the first {self.rows} texts of an earlier run, and {fault}. Give "
                "the same texts in the same order, or restart."
            )

    def append(self, texts: Sequence[Any], vectors: np.ndarray) -> None:
        """Texts and their vectors (n, V); when this returns, they are safe."""
        self._file.write(np.ascontiguousarray(vectors).data)
        self._sync(self._file)
        self._note(texts)
        self.rows += len(texts)
        self._save_progress()

    def finished(self) -> Path:
        """The complete .npy file, still in the folder of the unfinished work."""
        self._file.seek(0)
        self._file.write(self._header())
        self._sync(self._file)
        self._file.close()
        return self._vectors

    def publish(self, complete: Path) -> None:
        """Move a file of the folder to where the user wants it, and remove the folder."""
        os.replace(complete, self.path)
        self._lock.release()
        shutil.rmtree(self.folder)

    @property
    def _vectors(self) -> Path:
        return self.folder / "vectors.npy"

    @property
    def _progress(self) -> Path:
        return self.folder / "progress.json"

    def _begin(self) -> None:
        if self._restart or not (self._progress.is_file() and self._vectors.is_file()):
            self._progress.unlink(missing_ok=True)  # before the vectors that it speaks of
            self._file: IO[bytes] = self._vectors.open("wb+")
            self._file.write(self._header())
            return
        done = self._read_progress()
        self.rows, self._done_texts = done["rows"], done["texts"]
        end = len(self._header()) + self.rows * self._row.nbytes
        if self._vectors.stat().st_size < end:
            raise RepositoryError(f"{self._vectors} is shorter than {self._progress.name} beside it says. Restart.")
        self._file = self._vectors.open("rb+")
        self._file.truncate(end)
        self._file.seek(end)

    def _header(self) -> bytes:
        """numpy leaves room in it for a larger count, so that it can be written over."""
        file = io.BytesIO()
        content = {"descr": self._row.dtype.str, "fortran_order": False, "shape": (self.rows, len(self._row))}
        np.lib.format.write_array_header_1_0(file, content)
        return file.getvalue()

    def _note(self, texts: Sequence[Any]) -> None:
        for text in texts:
            self._texts.update(json.dumps(text, default=repr).encode())

    def _save_progress(self) -> None:
        content = {"format": _FORMAT, "rows": self.rows, "texts": self._texts.hexdigest(), "settings": self._settings}
        fresh = self._progress.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            self._sync(file)
        os.replace(fresh, self._progress)

    def _read_progress(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._progress.read_text(encoding="utf-8"))
            known, done = content["format"], content["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise RepositoryError(f"{self._progress} is not a record of unfinished work ({error}). Restart.") from error
        if known != _FORMAT:
            raise RepositoryError(f"{self._progress} has the format {known}, expected {_FORMAT}. Restart.")
        now = json.loads(json.dumps(self._settings))
        if other := sorted(key for key in {*done, *now} if done.get(key) != now.get(key)):
            then_and_now = "; ".join(f"{key} was {done.get(key)!r} and is {now.get(key)!r}" for key in other)
            raise InputError(
                f"{self.folder} holds {content['rows']} vectors of an earlier run that were made otherwise: "
                f"{then_and_now}. Ask as it did, or restart."
            )
        return content

    @staticmethod
    def _sync(file: IO[Any]) -> None:
        file.flush()
        os.fsync(file.fileno())
