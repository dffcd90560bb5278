"""The rows of a unit, a chunk at a time: what is computed, what is carried along, and rows that cannot be read.

A row that cannot be read never ends the run. It becomes a `BadRow`, which says where it was and what is wrong with it.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mlx_hf_bridge.corpora.inputs import CSV, JSONL, PARQUET, Unit, arrow_batches, format_of, is_compressed
from mlx_hf_bridge.corpora.storage import Storage, pyarrow

# How much of a bad row is kept with its reason.
_SHOWN = 1000
_BUFFER = 2**20


@dataclass(frozen=True)
class BadRow:
    """A row that has no result.

    Args:
        row: Its number in the file, from 0; None if the rest of the file cannot be read.
        reason: What is wrong with it.
        content: What it contains, shortened.
    """

    row: int | None
    reason: str
    content: str = ""


@dataclass
class Chunk:
    """Some rows of a file.

    Args:
        rows: Their numbers in the file.
        inputs: By column, what is computed from: one value for each row.
        carried: By column, what is written next to the results: one value for each row, or an Arrow array.
        bad: Rows that were between them and could not be read.
        blank: How many lines between them were blank, which are no rows.
    """

    rows: list[int]
    inputs: dict[str, list[Any]]
    carried: dict[str, Any]
    bad: list[BadRow] = field(default_factory=list)
    blank: int = 0


def shown(value: Any) -> str:
    """Return a value as it is shown in the record of bad rows.

    Args:
        value: Any value.

    Returns:
        Its text, shortened, without what is not Unicode.
    """
    text = value if isinstance(value, str) else repr(value)
    return text[:_SHOWN].encode("utf-8", "backslashreplace").decode()


def read_rows(
    storage: Storage, unit: Unit, inputs: Sequence[str], carried: Sequence[str], size: int
) -> Iterator[Chunk]:
    """Read the rows of a unit.

    Args:
        storage: The folder of the corpus.
        unit: The unit.
        inputs: The columns that are computed from.
        carried: The columns that are written next to the results.
        size: How many rows are read at a time.

    Yields:
        Chunks, in the order of the rows. The last one may have a bad row without a number, if the file breaks off.
    """
    source = _text_chunks if format_of(unit.file.name) in (JSONL, CSV) else _arrow_chunks
    reached = unit.first_row
    try:
        for chunk in source(storage, unit, list(inputs), list(carried), size):
            reached += len(chunk.rows) + len(chunk.bad) + chunk.blank
            yield chunk
    # pyarrow raises OSError for damaged pages. One with a number comes from the system: a missing file or permission.
    except (pyarrow().ArrowException, OSError, EOFError, csv.Error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = f"the file cannot be read from row {reached} on ({type(error).__name__}: {error})"
        yield Chunk([], {name: [] for name in inputs}, {name: [] for name in carried}, [BadRow(None, shown(reason))])


def _arrow_chunks(storage: Storage, unit: Unit, inputs: list[str], carried: list[str], size: int) -> Iterator[Chunk]:
    columns = list(dict.fromkeys([*inputs, *carried]))
    with storage.open(unit.file.name) as stream:
        if format_of(unit.file.name) == PARQUET:
            batches = _parquet_batches(stream, unit, columns, size)
        else:
            batches = _numbered(arrow_batches(stream), 0)
        last = None if unit.rows is None else unit.first_row + unit.rows
        for batch, start in batches:
            end = start + batch.num_rows
            if last is not None and start >= last:
                return
            first = max(start, unit.first_row)
            stop = end if last is None else min(end, last)
            for row in range(first, stop, size):
                part = batch.slice(row - start, min(size, stop - row))
                yield _arrow_chunk(part, row, inputs, carried)


def _parquet_batches(stream: Any, unit: Unit, columns: list[str], size: int) -> Iterator[tuple[Any, int]]:
    """Yield record batches of the row groups in which a unit lies, each with the number of its first row."""
    file = pyarrow().parquet.ParquetFile(stream)
    # iter_batches would leave a column out that is not there.
    _check_columns(file.schema_arrow.names, columns)
    first_row, groups, start = 0, [], None
    for number in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(number).num_rows
        if first_row + rows > unit.first_row and (unit.rows is None or first_row < unit.first_row + unit.rows):
            start = first_row if start is None else start
            groups.append(number)
        first_row += rows
    yield from _numbered(file.iter_batches(batch_size=size, row_groups=groups, columns=columns), start or 0)


def _check_columns(names: list[str], columns: list[str]) -> None:
    for column in columns:
        if column not in names:
            raise pyarrow().ArrowInvalid(f"it has no column {column!r}, only {names}")


def _numbered(batches: Any, start: int) -> Iterator[tuple[Any, int]]:
    for batch in batches:
        yield batch, start
        start += batch.num_rows


def _arrow_chunk(batch: Any, first_row: int, inputs: list[str], carried: list[str]) -> Chunk:
    _check_columns(batch.schema.names, [*inputs, *carried])
    rows = list(range(first_row, first_row + batch.num_rows))
    values = {name: python_values(batch.column(name)) for name in inputs}
    return Chunk(rows, values, {name: batch.column(name) for name in carried})


def python_values(array: Any) -> list[Any]:
    """Return the values of an Arrow array as Python objects; texts that are not UTF-8 with lone surrogates.

    Args:
        array: The array.

    Returns:
        A value for each row.
    """
    try:
        values: list[Any] = array.to_pylist()
        return values
    except UnicodeDecodeError:
        return [_python_value(value) for value in array]


def _python_value(value: Any) -> Any:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        # Lone surrogates, which no text in Unicode has, so that the row is refused with its reason.
        return value.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")


def _text_chunks(storage: Storage, unit: Unit, inputs: list[str], carried: list[str], size: int) -> Iterator[Chunk]:
    with storage.open(unit.file.name) as stream:
        records = _csv_records if format_of(unit.file.name) == CSV else _jsonl_records
        numbered = records(stream, unit)
        while part := list(islice(numbered, size)):
            yield _text_chunk(part, inputs, carried)


def _text_chunk(records: list[tuple[int, Any]], inputs: list[str], carried: list[str]) -> Chunk:
    columns = list(dict.fromkeys([*inputs, *carried]))
    bad, good, blank = [], [], 0
    for row, record in records:
        if isinstance(record, BadRow):
            bad.append(record)
        elif record is None:
            blank += 1
        elif lacking := [name for name in columns if name not in record]:
            bad.append(BadRow(row, f"it has no {lacking[0]!r}", shown(record)))
        else:
            good.append((row, record))
    values = {name: [record[name] for _, record in good] for name in columns}
    rows = [row for row, _ in good]
    return Chunk(rows, {name: values[name] for name in inputs}, {name: values[name] for name in carried}, bad, blank)


def _decompressed(stream: Any, unit: Unit) -> Any:
    name = unit.file.name.lower()
    if not is_compressed(name):
        return io.BufferedReader(stream, _BUFFER)
    kind = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    return io.BufferedReader(pyarrow().CompressedInputStream(stream, kind), _BUFFER)


def _jsonl_records(stream: Any, unit: Unit) -> Iterator[tuple[int, Any]]:
    """Yield a dict, a BadRow, or None for a blank line, for each line of a unit."""
    if unit.start:
        stream.seek(unit.start)
    for offset, line in enumerate(islice(_decompressed(stream, unit), unit.rows)):
        yield unit.first_row + offset, _json_record(unit.first_row + offset, line)


def _json_record(row: int, line: bytes) -> dict[str, Any] | BadRow | None:
    if not line.strip():
        return None
    try:
        record = json.loads(line)
    # RecursionError: nesting of some thousand levels. UnicodeDecodeError is a ValueError.
    except (ValueError, RecursionError) as error:
        return BadRow(row, f"it is not JSON ({error})", shown(line.decode("utf-8", "backslashreplace")))
    if not isinstance(record, dict):
        return BadRow(row, f"it is a JSON {type(record).__name__}, expected an object", shown(record))
    return record


def _csv_records(stream: Any, unit: Unit) -> Iterator[tuple[int, Any]]:
    """Yield a dict of texts, or a BadRow, for each record below the header. Values stay as they are written: "007"."""
    text = io.TextIOWrapper(_decompressed(stream, unit), encoding="utf-8-sig", errors="surrogateescape", newline="")
    tab = ".tsv" in unit.file.name.lower()
    reader = csv.reader(text, delimiter="\t" if tab else ",", strict=True)
    header = next(reader, [])
    row = 0
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield row, BadRow(row, f"it is not CSV ({error})")
        else:
            if not values:
                yield row, None
            elif len(values) != len(header):
                yield row, BadRow(row, f"it has {len(values)} fields, expected {len(header)}", shown(values))
            else:
                yield row, dict(zip(header, values, strict=True))
        row += 1
