"""Opening a job: find its files, read the columns, and continue an earlier run if there is one."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlx_hf_bridge.corpora.compute import fault_of_texts
from mlx_hf_bridge.corpora.inputs import Unit, find_files
from mlx_hf_bridge.corpora.job import Job, discard, done, plan, stored_schema, write_plan
from mlx_hf_bridge.corpora.options import ROWS_PER_UNIT
from mlx_hf_bridge.corpora.rows import BadRow, Chunk, read_rows
from mlx_hf_bridge.corpora.storage import Storage, pyarrow
from mlx_hf_bridge.corpora.tasks import Task
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers.encoding.streaming import CHUNK_SIZE
from mlx_hf_bridge.sentence_transformers.scoring.nearest import check_positive_integer

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# Columns of results, which no other column may be called.
_RESULTS = {"embed": ("embedding",), "rerank": ("score",), "classify": ("label", "score", "labels")}


@dataclass(frozen=True)
class OpenJob:
    """A job that is planned.

    Args:
        job: The job.
        units: All of its units.
    """

    job: Job
    units: Sequence[Unit]

    def pending(self) -> list[Unit]:
        """Return the units that have no part yet."""
        finished = done(self.job)
        return [unit for unit in self.units if unit.output not in finished]


def open_job(inputs: Paths, output: str | os.PathLike[str], task: Task, options: Mapping[str, Any]) -> OpenJob:
    """Plan a job, or continue the one in the output folder.

    Args:
        inputs: A file, a folder or a list of files.
        output: The folder of the results.
        task: What is computed.
        options: JobOptions, and others.

    Returns:
        The job; _job.json is written.

    Raises:
        InputError: If there are no files, a column is missing, no row can be read, or an earlier run had other
            settings or files.
        RepositoryError: If the folder cannot be written or has other files.
    """
    rows, size = options.get("rows_per_unit", ROWS_PER_UNIT), options.get("chunk_size", CHUNK_SIZE)
    check_positive_integer("rows_per_unit", rows)
    check_positive_integer("chunk_size", size)
    id_column, carried = options.get("id_column"), _carried(task, options)
    source, files = find_files(inputs)
    target = Storage.at(output)
    if isinstance(inputs, (str, os.PathLike)) and target.folder == source.folder:
        raise InputError(f"the results cannot go into the folder of the corpus, {target.folder}. Give another folder.")
    if options.get("restart"):
        discard(target)
    layout = {"id_column": id_column, "carried": list(carried), "rows_per_unit": rows, "chunk_size": size}
    job = Job(source, target, task, id_column, carried, size, {**task.settings(), **layout})
    units, earlier = plan(job, files, rows)
    job = replace(job, schema=stored_schema(earlier) if earlier else _schema(job, units))
    if earlier is None or len(units) > len(earlier["units"]):
        write_plan(job, units)
    return OpenJob(job, units)


def _carried(task: Task, options: Mapping[str, Any]) -> tuple[str, ...]:
    keep, id_column = options.get("keep_columns") or (), options.get("id_column")
    if isinstance(keep, str):
        raise InputError(f"keep_columns={keep!r}, expected a list of columns.")
    carried = tuple(dict.fromkeys([*([id_column] if id_column else []), *keep]))
    taken = {*_RESULTS[task.name], *([] if id_column else ["id"])}
    if clash := sorted(taken & set(carried)):
        raise InputError(f"the results have a column {clash[0]!r} of their own. Rename that of the corpus.")
    return carried


def _schema(job: Job, units: Sequence[Unit]) -> Any:
    """Return the types of the carried columns: those of the first file that has a row to compute."""
    pa, first = pyarrow(), None
    for unit in units:
        for chunk in read_rows(job.source, unit, job.task.columns, job.carried, job.chunk_size):
            if any(not fault_of_texts(job.task.columns, row) for row in zip(*chunk.inputs.values(), strict=True)):
                return pa.schema([pa.field(name, _type(chunk.carried[name])) for name in job.carried])
            first = first or _first_fault(job, unit, chunk)
    raise InputError(f"the corpus has no row with a text{first or ''}. Check the name of the column.")


def _first_fault(job: Job, unit: Unit, chunk: Chunk) -> str | None:
    rows = zip(*chunk.inputs.values(), strict=True)
    bad = [*chunk.bad, *(BadRow(0, fault_of_texts(job.task.columns, row) or "") for row in rows)]
    return f": of {unit.file.name}, {bad[0].reason}" if bad else None


def _type(values: Any) -> Any:
    pa = pyarrow()
    kind = values.type if isinstance(values, pa.Array) else pa.infer_type(values)
    return pa.string() if pa.types.is_null(kind) else kind
