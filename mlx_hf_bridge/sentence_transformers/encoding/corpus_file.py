"""A .npy file of embeddings that grows a chunk at a time and survives a crash.

Unfinished work is in PATH.partial/: vectors.npy, and progress.json, which says how many rows are valid, of which texts,
and with which settings. progress.json is replaced only after the rows have reached the disk, so it never claims more
than there is; rows beyond it are truncated on resuming. PATH itself appears when it is complete.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from filelock import FileLock, Timeout

from mlx_hf_bridge.errors import BridgeError, InputError, RepositoryError

# The version of progress.json.
_FORMAT = 2
# By how much embeddings of one model may differ, relative to the largest number; other processors' kernels give 1e-6.
_SAME_MODEL = 1e-4
# Finished texts that are read at a time on resuming; they are only hashed.
_SKIP_CHUNK = 2048


def is_same_model(probe: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two results of the same texts can be those of one model, on whatever processor.

    Args:
        probe: Results of any shape, in float32.
        other: Results that they are compared with.

    Returns:
        True if they have one shape and differ by rounding only.
    """
    if probe.shape != other.shape:
        return False
    return bool(np.abs(probe - other).max() <= _SAME_MODEL * max(float(np.abs(other).max()), 1e-30))


class CorpusFile:
    """A .npy file (rows, V) that is being written; a context manager that one process can be in at a time.

    Args:
        path: Where the finished file goes.
        settings: All settings that the embeddings depend on; values that JSON can hold.
        row: One of the embeddings, (V,), for the width and dtype.
        probe: Embeddings of texts that are always the same, (n, D) in float32, which tell another model.
        restart: Discard what an earlier run left. Default: False.

    Raises:
        InputError: On entering, if an earlier run had other settings.
        RepositoryError: On entering, if another process is writing, or what an earlier run left is damaged.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], row: np.ndarray, probe: np.ndarray, restart: bool = False
    ) -> None:
        self.path, self.folder = path, path.with_name(f"{path.name}.partial")
        self.rows = 0
        self._settings = {**settings, "width": len(row), "type": row.dtype.str}
        self._row, self._probe = row, np.asarray(probe, np.float32)
        self._texts = hashlib.sha256()
        self._restart = restart
        # timeout=0: a second process gets an error and does not wait for hours.
        self._lock = FileLock(str(self.folder / "lock"), timeout=0)

    def __enter__(self) -> Self:
        try:
            with self._reporting_write_errors():
                self.folder.mkdir(exist_ok=True)
                self._lock.acquire()
        except Timeout as error:
            raise RepositoryError(
                f"{self.folder} is in use by another process. Wait until it ends, or stop it."
            ) from error
        try:
            with self._reporting_write_errors():
                self._begin()
        # KeyboardInterrupt too: a lock that is kept would block the next run in this process.
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # What could not be written is tried again, and fails again.
        with suppress(OSError) if error is not None else nullcontext():
            self._file.close()
        self._lock.release()
        # Nothing was finished, so there is nothing to resume.
        if not self.rows and self.folder.is_dir():
            shutil.rmtree(self.folder)

    def skip(self, texts: Iterator[Any]) -> None:
        """Read past the texts whose embeddings are in the file already.

        Args:
            texts: An iterator of all texts; it is advanced.

        Raises:
            InputError: If these are not the texts of the earlier run.
        """
        left = self.rows
        while part := list(islice(texts, min(left, _SKIP_CHUNK))):
            self._note(part)
            left -= len(part)
        if left or (self.rows and self._texts.hexdigest() != self._done_texts):
            fault = f"now there are {self.rows - left} texts" if left else "now the texts are different"
            raise InputError(
                f"{self.folder} holds the embeddings of the first {self.rows} texts of an earlier run, but {fault}. "
                "Give the same texts in the same order, or restart."
            )

    def append(self, texts: Sequence[Any], vectors: np.ndarray) -> None:
        """Append the embeddings of some texts; they are on disk when this returns.

        Args:
            texts: The next texts.
            vectors: Their embeddings, (n, V).
        """
        with self._reporting_write_errors():
            self._file.write(np.ascontiguousarray(vectors).data)
            # Before the record: after a crash it may know of fewer rows than there are, never of more.
            self._sync(self._file)
            self._note(texts)
            self.rows += len(texts)
            self._save_progress()

    def finish(self) -> Path:
        """Complete the .npy file.

        Returns:
            Its path, still in the folder of unfinished work.
        """
        with self._reporting_write_errors():
            self._file.seek(0)
            self._file.write(self._header())
            self._sync(self._file)
            self._file.close()
        return self._vectors

    def publish(self, complete: Path) -> None:
        """Move the finished file to its final path, and remove the folder of unfinished work.

        Args:
            complete: A file in that folder.
        """
        os.replace(complete, self.path)  # atomic: a reader sees the old file or the complete new one
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
            self._progress.unlink(missing_ok=True)  # first, so that it never describes rows that are gone
            self._file: IO[bytes] = self._vectors.open("wb+")
            self._file.write(self._header())
            return
        done = self._read_progress()
        self.rows, self._done_texts = done["rows"], done["texts"]
        end = len(self._header()) + self.rows * self._row.nbytes
        if self._vectors.stat().st_size < end:
            raise RepositoryError(f"{self._vectors} is shorter than {self._progress.name} next to it says. Restart.")
        self._file = self._vectors.open("rb+")
        # Rows that were written after the last record are cut off.
        self._file.truncate(end)
        self._file.seek(end)

    def _header(self) -> bytes:
        """Return the header; numpy pads it for a larger row count, so that it can be overwritten in place."""
        file = io.BytesIO()
        content = {"descr": self._row.dtype.str, "fortran_order": False, "shape": (self.rows, len(self._row))}
        np.lib.format.write_array_header_1_0(file, content)
        return file.getvalue()

    def _note(self, texts: Sequence[Any]) -> None:
        for text in texts:
            # As JSON, since a pair of texts and their concatenation must differ.
            self._texts.update(json.dumps(text, default=repr).encode())

    def _save_progress(self) -> None:
        content = {"format": _FORMAT, "rows": self.rows, "texts": self._texts.hexdigest(), "settings": self._settings}
        content["probe"] = self._probe.tolist()
        fresh = self._progress.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(content, file)
            self._sync(file)
        os.replace(fresh, self._progress)

    def _read_progress(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._progress.read_text(encoding="utf-8"))
            known, done = content["format"], content["settings"]
            probe = np.array(content["probe"] if known == _FORMAT else [], np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise RepositoryError(f"{self._progress} is not a record of unfinished work ({error}). Restart.") from error
        if known != _FORMAT:
            raise RepositoryError(f"{self._progress} has the format {known}, expected {_FORMAT}. Restart.")
        # Through JSON, which turns tuples into lists as in the file.
        now = json.loads(json.dumps(self._settings))
        if changed := sorted(key for key in {*done, *now} if done.get(key) != now.get(key)):
            then_and_now = "; ".join(f"{key} was {done.get(key)!r} and is {now.get(key)!r}" for key in changed)
            raise InputError(
                f"{self.folder} holds {content['rows']} embeddings of an earlier run with other settings: "
                f"{then_and_now}. Use the same settings, or restart."
            )
        self._check_probe(probe, content["rows"])
        return content

    def _check_probe(self, probe: np.ndarray, rows: int) -> None:
        """Raise InputError for another model; another number of threads or processor rounds differently."""
        if not is_same_model(probe, self._probe):
            same_shape = probe.shape == self._probe.shape
            difference = float(np.abs(probe - self._probe).max()) if same_shape else np.inf
            raise InputError(
                f"{self.folder} holds {rows} embeddings of an earlier run with another model, whose embeddings of four "
                f"short texts differ by up to {difference:.1g}. Use the same model, or restart."
            )

    @contextmanager
    def _reporting_write_errors(self) -> Iterator[None]:
        try:
            yield
        except (BridgeError, Timeout):
            raise
        except OSError as error:
            raise RepositoryError(
                f"{self.folder} cannot be written ({error}). Free space on its disk, and run again with the same "
                "texts: what was finished is kept."
            ) from error

    @staticmethod
    def _sync(file: IO[Any]) -> None:
        file.flush()
        # flush() hands the bytes to the system, fsync to the disk.
        os.fsync(file.fileno())
