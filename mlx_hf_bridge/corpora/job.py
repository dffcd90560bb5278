"""A job: which units of a corpus are computed into which files, with which settings.

The output folder has

    part-000000.parquet ...         the results of unit 0, and so on, in the order of the rows
    _quarantine/part-000000.jsonl   rows of that unit that have no result, with the reason
    _job.json                       settings, input files and units, written before the work
    _probe.json                     results of some short texts, which differ between models
    _manifest.json                  all files with their numbers of rows, written when every unit is done

A part appears when it is complete, under a name that depends on its unit only. So whatever was killed, and wherever it
ran, the same job continues with the units that have no part yet, and a unit that was computed twice is there once.
"""

import base64
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mlx_hf_bridge.corpora.inputs import InputFile, Unit, divide
from mlx_hf_bridge.corpora.storage import Storage, pyarrow
from mlx_hf_bridge.corpora.tasks import Task
from mlx_hf_bridge.errors import InputError, RepositoryError
from mlx_hf_bridge.sentence_transformers.encoding.corpus_file import is_same_model
from mlx_hf_bridge.version import __version__

logger = logging.getLogger(__name__)

JOB, PROBE, MANIFEST, QUARANTINE = "_job.json", "_probe.json", "_manifest.json", "_quarantine"
# The version of these files.
_FORMAT = 1
# The key of a part's own record, in the metadata of its Parquet file.
RECORD = "mlx_hf_bridge"


@dataclass(frozen=True)
class Job:
    """What a process needs to compute any unit. It can be pickled.

    Args:
        source: The folder of the corpus.
        output: The folder of the results.
        task: What is computed.
        id_column: The column that identifies rows; None to write "<file>:<number of the row>" instead.
        carried: The columns that are written next to the results, `id_column` included.
        chunk_size: How many rows are computed at a time.
        settings: All that the results depend on, besides the rows.
        schema: The pyarrow.Schema of the carried columns; None until a row was read.
    """

    source: Storage
    output: Storage
    task: Task
    id_column: str | None
    carried: tuple[str, ...]
    chunk_size: int
    settings: dict[str, Any]
    schema: Any = None

    @property
    def digest(self) -> str:
        """A digest of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:32]

    def check_probe(self, probe: np.ndarray) -> None:
        """Compare this process's results for some short texts with those of the process that was first.

        Args:
            probe: The results.

        Raises:
            InputError: If they are those of another model.
        """
        known = self.output.read_json(PROBE)
        if known is None:
            self.output.write_json(PROBE, {"results": probe.tolist()})
        elif not is_same_model(probe, np.array(known.get("results"), np.float32)):
            raise InputError(
                f"{self.output.folder} holds results of another model, or of another kind of device: those of some "
                f"short texts ({PROBE}) differ. Use the same model everywhere, or give another folder."
            )


def plan(job: Job, files: Sequence[InputFile], rows_per_unit: int) -> tuple[list[Unit], dict[str, Any] | None]:
    """Return the units of a corpus: those of the earlier runs in this folder, and those of files that are new.

    Args:
        job: The job.
        files: The files that there are now.
        rows_per_unit: How many rows a unit has.

    Returns:
        The units, and the content of _job.json; None if there is none yet.

    Raises:
        InputError: If an earlier run had other settings or files.
        RepositoryError: If the folder has parts of something else.
    """
    earlier = job.output.read_json(JOB)
    if earlier is None:
        if job.output.files():
            raise RepositoryError(f"{job.output.folder} has files but no {JOB}. Give an empty or new folder.")
        return _units(job.source, [], files, rows_per_unit), None
    units = _units_of(earlier, job)
    known = {unit.file.name: unit.file for unit in units}
    _check_unchanged(job, known, files, rows_per_unit)
    return _units(job.source, units, [file for file in files if file.name not in known], rows_per_unit), earlier


def write_plan(job: Job, units: Sequence[Unit]) -> None:
    """Write _job.json.

    Args:
        job: The job, with its schema.
        units: All units.
    """
    files = {unit.file.name: unit.file for unit in units}
    numbers = {name: number for number, name in enumerate(files)}
    content = {
        "format": _FORMAT,
        "version": __version__,
        "model": job.task.model,
        "settings": job.settings,
        "schema": base64.b64encode(job.schema.serialize().to_pybytes()).decode(),
        "inputs": [asdict(file) for file in files.values()],
        "units": [[numbers[unit.file.name], unit.first_row, unit.rows, unit.start, unit.stop] for unit in units],
    }
    job.output.write_json(JOB, content)


def stored_schema(earlier: dict[str, Any]) -> Any:
    """Return the schema of the carried columns that _job.json has.

    Args:
        earlier: The content of _job.json.

    Returns:
        A pyarrow.Schema.
    """
    pa = pyarrow()
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(earlier["schema"])))


def stored_units(job: Job) -> list[Unit]:
    """Return the units that _job.json has, in a process that was sent the job only.

    Args:
        job: The job.

    Returns:
        All units.

    Raises:
        RepositoryError: If there is no such file.
    """
    earlier = job.output.read_json(JOB)
    if earlier is None:
        raise RepositoryError(f"{job.output.path(JOB)} is missing; can this machine read the output folder?")
    return _parsed_units(earlier)


def done(job: Job) -> set[str]:
    """Return the names of the parts that are written."""
    return {name for name, _, _ in job.output.files()}


def finish(job: Job, units: Sequence[Unit]) -> dict[str, Any]:
    """Check all parts, and write the manifest.

    Args:
        job: The job.
        units: All units, which are done.

    Returns:
        The content of _manifest.json.

    Raises:
        RepositoryError: If a part is damaged, or of another job.
    """
    outputs = [_checked(job, unit) for unit in units]
    content = {
        "format": _FORMAT,
        "version": __version__,
        "model": job.task.model,
        "settings": job.settings,
        "rows": sum(one["rows"] for one in outputs),
        "quarantined": sum(one["quarantined"] for one in outputs),
        "inputs": [asdict(file) for file in {unit.file.name: unit.file for unit in units}.values()],
        "outputs": outputs,
    }
    job.output.write_json(MANIFEST, content)
    for folder in ("", QUARANTINE):
        job.output.remove_scratch(folder)
    return content


def discard(output: Storage) -> None:
    """Remove what an earlier job left in a folder.

    Args:
        output: The folder.
    """
    # First the plan: without it, parts that are left are no one's.
    output.remove([JOB, PROBE, MANIFEST])
    output.remove([name for name, _, _ in output.files() if name.startswith("part-")])
    output.remove([name for name, _, _ in output.files(QUARANTINE)])


def _units(source: Storage, units: list[Unit], files: Sequence[InputFile], rows_per_unit: int) -> list[Unit]:
    """Return the units with those of further files behind them, so that the numbers of the former stay."""
    found = list(units)
    for file in files:
        fingerprint, ranges = divide(source, file, rows_per_unit)
        known = replace(file, fingerprint=fingerprint)
        found += [Unit(len(found) + number, known, **place) for number, place in enumerate(ranges)]
    return found


def _units_of(earlier: dict[str, Any], job: Job) -> list[Unit]:
    """Return the units that _job.json has, once its settings are compared."""
    if earlier.get("format") != _FORMAT:
        found = f"{job.output.path(JOB)} has the format {earlier.get('format')}"
        raise RepositoryError(f"{found}, expected {_FORMAT}. Restart, or give another folder.")
    then, now = earlier["settings"], json.loads(json.dumps(job.settings))
    if changed := sorted(key for key in {*then, *now} if then.get(key) != now.get(key)):
        differences = "; ".join(f"{key} was {then.get(key)!r} and is {now.get(key)!r}" for key in changed)
        raise InputError(
            f"{job.output.folder} holds results of an earlier run with other settings: {differences}. Use the same "
            "settings, give another folder, or restart."
        )
    return _parsed_units(earlier)


def _parsed_units(earlier: dict[str, Any]) -> list[Unit]:
    files = [InputFile(**file) for file in earlier["inputs"]]
    return [Unit(number, files[file], *place) for number, (file, *place) in enumerate(earlier["units"])]


def _check_unchanged(job: Job, known: dict[str, InputFile], files: Sequence[InputFile], rows_per_unit: int) -> None:
    now = {file.name: file for file in files}
    gone = sorted(set(known) - set(now))
    changed = [name for name, file in known.items() if name in now and _differs(job, file, now[name], rows_per_unit)]
    if gone or changed:
        faults = (("missing", gone), ("changed", changed))
        what = [f"{len(names)} {fault} ({names[0]})" for fault, names in faults if names]
        raise InputError(
            f"of the files that {job.output.folder} holds results of, some differ: {', '.join(what)}. Put them back, "
            "give another folder, or restart. Files that are added are computed too."
        )


def _differs(job: Job, then: InputFile, now: InputFile, rows_per_unit: int) -> bool:
    if (then.size, then.modified) == (now.size, now.modified) and now.modified is not None:
        return False
    # Another time may mean a copy of the same file.
    return then.size != now.size or divide(job.source, now, rows_per_unit)[0] != then.fingerprint


def _checked(job: Job, unit: Unit) -> dict[str, Any]:
    """Return the manifest's entry of a part."""
    pa, advice = pyarrow(), "Remove it, and run again: it is computed again"
    try:
        with job.output.open(unit.output) as file:
            metadata = pa.parquet.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        raise RepositoryError(f"{job.output.path(unit.output)} cannot be read ({error}). {advice}.") from error
    record = json.loads((metadata.metadata or {}).get(RECORD.encode(), b"{}"))
    if record.get("settings") != job.digest or record.get("unit") != unit.identity:
        raise RepositoryError(f"{job.output.path(unit.output)} is not of this job. {advice}.")
    place = {"part": unit.output, "input": unit.file.name, "first_row": unit.first_row}
    return {**place, "rows": metadata.num_rows, "quarantined": record["quarantined"]}
