"""One unit, from its rows to its file of results."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.corpora.inputs import Unit
from mlx_hf_bridge.corpora.job import QUARANTINE, RECORD, Job
from mlx_hf_bridge.corpora.rows import BadRow, Chunk, read_rows, shown
from mlx_hf_bridge.corpora.storage import pyarrow
from mlx_hf_bridge.corpora.tasks import Computation
from mlx_hf_bridge.errors import InputError, NonFiniteError

logger = logging.getLogger(__name__)

# What a text can be the cause of. Anything else is about the model, the settings or the machine, and ends the run.
_ROW_ERRORS = (InputError, NonFiniteError)


@dataclass
class Report:
    """What became of a unit.

    Args:
        unit: Its number.
        rows: How many rows have results.
        quarantined: How many have none.
        blank: How many lines were blank.
    """

    unit: int
    rows: int = 0
    quarantined: int = 0
    blank: int = 0


@dataclass
class Results:
    """The rows of a chunk that have results, and those that have none.

    Args:
        rows: The numbers of the rows in the file.
        carried: The carried columns, as Arrow arrays.
        columns: The columns of results, as Arrow arrays.
        bad: The other rows.
    """

    rows: list[int]
    carried: dict[str, Any]
    columns: list[Any]
    bad: list[BadRow] = field(default_factory=list)


def compute_unit(job: Job, unit: Unit, computation: Computation) -> Report:
    """Compute a unit, and write its results and the rows that have none.

    Args:
        job: The job.
        unit: The unit.
        computation: The job's task, loaded.

    Returns:
        What became of its rows.

    Raises:
        BridgeError: If the fault is not that of a row.
    """
    pa, report, bad = pyarrow(), Report(unit.number), list[BadRow]()
    schema = pa.schema([*_id_fields(job), *(job.schema.field(name) for name in job.carried), *computation.fields])

    def fill(file: Any) -> None:
        with pa.parquet.ParquetWriter(file, schema, compression="zstd", use_dictionary=False) as writer:
            for results in _all_results(job, unit, computation, report):
                bad.extend(results.bad)
                if results.rows:
                    writer.write_table(_table(job, unit, results, schema))
            report.quarantined = len(bad)
            if unit.rows is not None and not any(one.row is None for one in bad):
                assert report.rows + len(bad) + report.blank == unit.rows, f"rows of {unit} were lost"
            record = {"settings": job.digest, "unit": unit.identity, "rows": report.rows, "quarantined": len(bad)}
            writer.add_key_value_metadata({RECORD: json.dumps(record)})
        # Before the part appears, which says that the unit is done.
        if bad:
            _write_quarantine(job, unit, bad)

    job.output.write(unit.output, fill)
    return report


def compute_chunk(
    chunk: Chunk, schema: Any, columns: tuple[str, ...], id_column: str | None, computation: Computation
) -> Results:
    """Compute the rows of a chunk.

    Args:
        chunk: The rows.
        schema: The pyarrow.Schema of the carried columns.
        columns: The columns that are computed from: one, or two for pairs.
        id_column: The carried column that may not be null, if any.
        computation: The task, loaded.

    Returns:
        The results, in the order of the rows; a row that cannot be computed is among the bad ones.
    """
    bad = dict[int, str]()
    carried = {name: _conform(name, values, schema.field(name).type, bad) for name, values in chunk.carried.items()}
    if id_column and carried and carried[id_column].null_count:
        nulls = carried[id_column].is_null().to_pylist()
        bad |= {number: f"{id_column!r} is null" for number, null in enumerate(nulls) if null and number not in bad}
    lists = [chunk.inputs[name] for name in columns]
    for number in range(len(chunk.rows)):
        if number not in bad and (reason := fault_of_texts(columns, [values[number] for values in lists])):
            bad[number] = reason
    kept = [number for number in range(len(chunk.rows)) if number not in bad]
    texts = lists[0] if len(lists) == 1 else list(zip(*lists, strict=True))
    parts = list(_isolating_faults(computation.run, texts, kept, bad))
    # Without those that failed meanwhile.
    kept = [number for number in kept if number not in bad]
    pa = pyarrow()
    results = [pa.concat_arrays([part[at] for part in parts]) for at in range(len(computation.fields))] if parts else []
    rows = [BadRow(chunk.rows[number], bad[number], _content(lists, number)) for number in sorted(bad)]
    taken = {name: array.take(pa.array(kept, pa.int64())) for name, array in carried.items()}
    return Results([chunk.rows[number] for number in kept], taken, results, [*chunk.bad, *rows])


def _all_results(job: Job, unit: Unit, computation: Computation, report: Report) -> Iterator[Results]:
    for chunk in read_rows(job.source, unit, job.task.columns, job.carried, job.chunk_size):
        results = compute_chunk(chunk, job.schema, job.task.columns, job.id_column, computation)
        report.rows += len(results.rows)
        report.blank += chunk.blank
        yield results


def _isolating_faults(
    run: Callable[[list[Any]], list[Any]], texts: list[Any], kept: list[int], bad: dict[int, str]
) -> Iterator[list[Any]]:
    """Compute some of the texts; where that fails, each half, down to the single texts that are the cause."""
    if not kept:
        return
    try:
        yield run([texts[number] for number in kept])
    except _ROW_ERRORS as error:
        if len(kept) == 1:
            bad[kept[0]] = str(error)
            return
        half = len(kept) // 2
        yield from _isolating_faults(run, texts, kept[:half], bad)
        yield from _isolating_faults(run, texts, kept[half:], bad)


def fault_of_texts(columns: Sequence[str], values: Sequence[Any]) -> str | None:
    """Return what is wrong with the texts of a row.

    Args:
        columns: The columns that are computed from.
        values: The row's values of them.

    Returns:
        The reason why they cannot be computed; None if they can.
    """
    for name, value in zip(columns, values, strict=True):
        if not isinstance(value, str):
            kind = "null" if value is None else f"of type {type(value).__name__}"
            return f"{name!r} is {kind}, expected a text"
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                return f"{name!r} is not UTF-8"
    return None


def _conform(name: str, values: Any, kind: Any, bad: dict[int, str]) -> Any:
    """Return the values of a carried column as an Arrow array of a type; values of other types make their rows bad."""
    pa = pyarrow()
    faults = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)
    except faults:
        found = []
        for number, value in enumerate(values):
            plain = value.as_py() if isinstance(value, pa.Scalar) else value
            try:
                found.append(pa.array([plain], kind))
            except faults:
                bad[number] = f"{name!r} is {shown(plain):.80}, expected {kind}"
                found.append(pa.nulls(1, kind))
        return pa.concat_arrays(found)


def _content(lists: list[list[Any]], number: int) -> str:
    return shown(lists[0][number] if len(lists) == 1 else [values[number] for values in lists])


def _id_fields(job: Job) -> list[Any]:
    pa = pyarrow()
    return [] if job.id_column else [pa.field("id", pa.string())]


def _table(job: Job, unit: Unit, results: Results, schema: Any) -> Any:
    pa = pyarrow()
    ids = [] if job.id_column else [pa.array([f"{unit.file.name}:{row}" for row in results.rows], pa.string())]
    return pa.Table.from_arrays(
        [*ids, *(results.carried[name] for name in job.carried), *results.columns], schema=schema
    )


def _write_quarantine(job: Job, unit: Unit, bad: list[BadRow]) -> None:
    records = [{"file": unit.file.name, "row": one.row, "reason": one.reason, "content": one.content} for one in bad]
    logger.warning("%d rows of %s have no result; the first: %s", len(bad), unit.file.name, bad[0].reason)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    name = f"{QUARANTINE}/{unit.output.removesuffix('.parquet')}.jsonl"
    job.output.write(name, lambda file: file.write(lines.encode("utf-8", "backslashreplace")))
