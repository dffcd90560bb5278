"""A corpus that does not fit in memory becomes a .npy or Parquet file of vectors, and goes on after a crash."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import BackendError, InputError, RepositoryError
from mlx_hf_bridge.sentence_transformers.encoding.corpus_file import CorpusFile
from mlx_hf_bridge.sentence_transformers.encoding.streaming import (
    CHUNK_SIZE,
    Encoder,
    check_streamable_precision,
    progress_bar,
    split_into_chunks,
    text_iterator,
)
from mlx_hf_bridge.sentence_transformers.scoring.nearest import check_positive_integer
from mlx_hf_bridge.version import __version__

_PARQUET = ".parquet"
_SUFFIXES = (".npy", _PARQUET)
_ROWS_A_GROUP = 8192
# Their vectors stand for the model and all of its settings; short, so that none is truncated.
_PROBE = ["", "a", "A probe: Ünïcode, 1234 and UPPER case.", "two of them, to be padded to the longest of the batch"]
# What says where is computed, not what.
_NO_SETTINGS = ("pool", "device")


def encode_to_file(
    self: Encoder,
    inputs: Iterable[Any],
    path: str | Path,
    prompt_name: str | None = None,
    prompt: str | None = None,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
    precision: str = "float32",
    normalize_embeddings: bool = False,
    truncate_dim: int | None = None,
    *,
    chunk_size: int = CHUNK_SIZE,
    restart: bool = False,
    **kwargs: Any,
) -> Path:
    """Any iterable of texts or pairs -> a file of their vectors, in their order; its path.

    path: a .npy file (N, V), as np.save writes it and np.load(path, mmap_mode="r") maps it, or a Parquet file with the
    column "embedding" (needs pyarrow). What is there is replaced when all is done. Until then the work is in
    PATH.partial/, and the same call continues it after a crash, byte for byte as if there had been none; texts that are
    done are read, compared and skipped. restart: begin anew. The other arguments are encode_stream's. Raises what
    encode_stream raises; InputError where an earlier run had other texts, another model or other settings;
    RepositoryError for a path that cannot be written; BackendError without pyarrow.
    """
    check_positive_integer("chunk_size", chunk_size)
    check_streamable_precision(precision)
    target, texts = _check_path(path), text_iterator(inputs)
    options = dict(
        prompt_name=prompt_name,
        prompt=prompt,
        batch_size=batch_size,
        precision=precision,
        normalize_embeddings=normalize_embeddings,
        truncate_dim=truncate_dim,
        **kwargs,
    )
    probe: np.ndarray = self.encode(_PROBE, show_progress_bar=False, **options)
    settings = {name: value for name, value in options.items() if name not in _NO_SETTINGS}
    settings |= {"chunk_size": chunk_size, "max_seq_length": self.max_seq_length}
    settings |= {"version": __version__, "model": hashlib.sha256(probe.tobytes()).hexdigest()[:16]}
    total = len(inputs) if isinstance(inputs, (list, tuple)) else None
    with CorpusFile(target, settings, probe[0], restart) as file:
        file.skip(texts)
        with progress_bar(show_progress_bar, total, file.rows) as bar:
            for chunk in split_into_chunks(texts, chunk_size):
                file.append(chunk, self.encode(chunk, show_progress_bar=False, **options))
                bar.update(len(chunk))
        complete = file.finished()
        file.publish(_as_parquet(complete) if target.suffix == _PARQUET else complete)
    return target


def _check_path(path: str | Path) -> Path:
    target = Path(path).expanduser().absolute()
    if target.suffix not in _SUFFIXES:
        raise InputError(f"path={str(path)!r} ends in {target.suffix!r}, expected {' or '.join(_SUFFIXES)}.")
    if target.is_dir() or not target.parent.is_dir():
        fault = "is a folder" if target.is_dir() else "is in a folder that is not there"
        raise RepositoryError(f"{target} {fault}. Give another path.")
    if target.suffix == _PARQUET:
        _pyarrow()
    return target


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise BackendError("Parquet files are written by pyarrow, which is not there. pip install pyarrow.") from error
    return pyarrow


def _as_parquet(vectors: Path) -> Path:
    """The same vectors in a Parquet file beside, written a group of rows at a time."""
    pa = _pyarrow()
    target = vectors.with_suffix(_PARQUET)
    with vectors.open("rb") as file:
        np.lib.format.read_magic(file)
        (rows, width), _, dtype = np.lib.format.read_array_header_1_0(file)
        schema = pa.schema([("embedding", pa.list_(pa.from_numpy_dtype(dtype), width))])
        with pa.parquet.ParquetWriter(target, schema) as writer:
            for start in range(0, rows, _ROWS_A_GROUP):
                count = min(_ROWS_A_GROUP, rows - start) * width
                values = pa.array(np.frombuffer(file.read(count * dtype.itemsize), dtype))
                writer.write(pa.record_batch([pa.FixedSizeListArray.from_arrays(values, width)], schema))
    return target
