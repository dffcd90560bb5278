"""encode_to_file: embeddings of a corpus of any size in a .npy or Parquet file, resumed after an interruption."""

from collections.abc import Iterable
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.errors import BackendError, InputError, RepositoryError
from mlx_hf_bridge.layers.single_batch import repeatable_results
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
# Rows in a Parquet row group: 12 MB of 384 float32 dimensions, so that conversion takes little memory.
_ROWS_PER_GROUP = 8192
# Their embeddings identify the model and all of its settings; short, so that none is truncated.
PROBE_TEXTS = [
    "",
    "a",
    "A probe: Ünïcode, 1234 and UPPER case.",
    "two of them, to be padded to the longest of the batch",
]
# Options that say where to compute, and do not change the embeddings.
_NOT_SETTINGS = ("pool", "device")


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
    """Write the embeddings of the texts of an iterable to a file, in their order.

    Until it is complete, the work is in PATH.partial/. After an interruption, the same call with the same texts
    continues it, and the file is the same byte for byte as without one; finished texts are read and compared, but not
    encoded again.

    Args:
        inputs: An iterable of texts or pairs of texts, such as a generator.
        path: A .npy file, which np.load(path, mmap_mode="r") maps into memory, or a .parquet file with the column
            "embedding" (needs pyarrow). An existing file is replaced at the end.
        prompt_name: The name of the prompt to put before every text. Default: None.
        prompt: A text to put before every text. Default: None.
        batch_size: Bounds the number of tokens in a batch, as in `encode`. Default: 32.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.
        precision: "float32" (default), "binary" or "ubinary".
        normalize_embeddings: Scale embeddings to length 1. Default: False.
        truncate_dim: How many dimensions are kept. Default: None, the model's `truncate_dim`.
        chunk_size: How many texts are read, encoded and saved at a time. Default: 2048.
        restart: Discard unfinished work of an earlier run. Default: False.
        **kwargs: Further arguments of `encode`.

    Returns:
        The absolute path of the file, which holds embeddings (N, V).

    Raises:
        InputError: If the path has another suffix, the precision is "int8" or "uint8", or an earlier run had other
            texts, another model or other settings; also what `encode` raises.
        RepositoryError: If the file cannot be written there, or another process is writing it.
        BackendError: If the path ends in .parquet and pyarrow is not installed.

    Example:
        >>> with open("texts.txt") as lines:
        ...     path = model.encode_to_file(lines, "embeddings.npy", normalize_embeddings=True)
        >>> embeddings = np.load(path, mmap_mode="r")
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
    settings = {name: value for name, value in options.items() if name not in _NOT_SETTINGS}
    settings |= {"chunk_size": chunk_size, "max_seq_length": self.max_seq_length, "version": __version__}
    with repeatable_results():
        # Resuming with other weights, prompts or tokenizer settings must fail, whatever these are called. The probe's
        # embeddings change with anything that matters, which a list of settings could not promise.
        probe = self.encode(PROBE_TEXTS, show_progress_bar=False, **{**options, "precision": "float32"})
        row = probe[0] if precision == "float32" else self.encode(PROBE_TEXTS[1], show_progress_bar=False, **options)
    total = length_hint(inputs) or None
    with CorpusFile(target, settings, row, probe, restart) as file, repeatable_results():
        file.skip(texts)
        with progress_bar(show_progress_bar, total, file.rows) as bar:
            for chunk in split_into_chunks(texts, chunk_size):
                file.append(chunk, self.encode(chunk, show_progress_bar=False, **options))
                bar.update(len(chunk))
        complete = file.finish()
        # Parquet is written at the end: its files cannot grow after a crash.
        file.publish(_as_parquet(complete) if target.suffix == _PARQUET else complete)
    return target


def _check_path(path: str | Path) -> Path:
    target = Path(path).expanduser().absolute()
    if target.suffix not in _SUFFIXES:
        raise InputError(f"path={str(path)!r} ends in {target.suffix!r}, expected {' or '.join(_SUFFIXES)}.")
    if target.is_dir() or not target.parent.is_dir():
        fault = "is a folder" if target.is_dir() else "is in a folder that does not exist"
        raise RepositoryError(f"{target} {fault}. Give another path.")
    if target.suffix == _PARQUET:
        _pyarrow()
    return target


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise BackendError(
            "Parquet files are written by pyarrow, which is not installed. pip install pyarrow."
        ) from error
    return pyarrow


def _as_parquet(vectors: Path) -> Path:
    """Convert a .npy file to a Parquet file next to it, a row group at a time."""
    pa = _pyarrow()
    target = vectors.with_suffix(_PARQUET)
    with vectors.open("rb") as file:
        np.lib.format.read_magic(file)
        (rows, width), _, dtype = np.lib.format.read_array_header_1_0(file)
        schema = pa.schema([("embedding", pa.list_(pa.from_numpy_dtype(dtype), width))])
        with pa.parquet.ParquetWriter(target, schema) as writer:
            for start in range(0, rows, _ROWS_PER_GROUP):
                count = min(_ROWS_PER_GROUP, rows - start) * width
                values = pa.array(np.frombuffer(file.read(count * dtype.itemsize), dtype))
                writer.write(pa.record_batch([pa.FixedSizeListArray.from_arrays(values, width)], schema))
    return target
