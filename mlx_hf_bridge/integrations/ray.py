"""Embed, rerank and classify on a Ray cluster, by Ray Data: `pip install 'mlx-hf-bridge[ray]'`.

Ray decides which actor computes what, restarts actors that died, and scales their pool. For files, it gets the units
of a job (mlx_hf_bridge.corpora). An actor reads a unit, computes it, and writes its part, so that only numbers of rows
pass through Ray's memory, and a unit that is computed again replaces its part with the same one.
"""

import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from mlx_hf_bridge.corpora.api import CorpusResult, conclude, report_progress
from mlx_hf_bridge.corpora.compute import Report
from mlx_hf_bridge.corpora.inputs import Unit
from mlx_hf_bridge.corpora.job import Job
from mlx_hf_bridge.corpora.opening import OpenJob, Paths, open_job
from mlx_hf_bridge.corpora.options import (
    ClassifyOptions,
    EmbedOptions,
    RerankOptions,
    classify_task,
    embed_task,
    rerank_task,
)
from mlx_hf_bridge.corpora.processes import Worker
from mlx_hf_bridge.corpora.storage import Storage
from mlx_hf_bridge.corpora.tables import TableWorker
from mlx_hf_bridge.corpora.tasks import Task
from mlx_hf_bridge.errors import ArgumentTypeError, BridgeError, InputError
from mlx_hf_bridge.runtime.environment import STREAMS_VARIABLE
from mlx_hf_bridge.runtime.extras import require
from mlx_hf_bridge.sentence_transformers.encoding.streaming import CHUNK_SIZE

Concurrency = int | tuple[int, int] | tuple[int, int, int] | None

# How often a unit is computed again after its actor died. A text that kills its process would do so for ever.
_RETRIES = 3
# The rows of a dataset that is written, and the file that says that they are complete.
_COPY, _COPIED = "_input", "_copied.json"


def embed_dataset(
    dataset_or_path: Any,
    model: str | Path,
    text_column: str = "text",
    *,
    output: str | Path | None = None,
    concurrency: Concurrency = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    show_progress_bar: bool | None = None,
    **options: Unpack[EmbedOptions],
) -> Any:
    """Embed the texts of files or of a ray.data.Dataset on a Ray cluster.

    For files this is `mlx_hf_bridge.corpora.embed_files` on all nodes: rows keep their order and ids, bad rows are
    quarantined, and the same call continues after an interruption, whichever process was killed. All nodes must be able
    to read the files and write the output. A dataset may be anything that Ray reads (Lance, Iceberg, BigQuery, ...).

    Args:
        dataset_or_path: A file, a folder or a list of files, as in `embed_files`; or a ray.data.Dataset.
        model: A Hub id or folder of an embedding model. Each node converts it once.
        text_column: The column with the texts. Default: "text".
        output: The folder of the results. A dataset is written into it first, since a run that continues needs the same
            rows. Default: None, for a dataset only: a dataset with the further columns "embedding" and "error" is
            returned, which Ray's own writers take.
        concurrency: How many actors compute: a number, or (fewest, most) for a pool that Ray scales. Default: None,
            Ray's own choice.
        ray_remote_args: Further arguments of `ray.data.Dataset.map_batches`, such as {"num_cpus": 4} (default: 1) for
            the cores of an actor, or {"num_gpus": 1}. Default: none.
        show_progress_bar: Whether to show a progress bar of rows, besides Ray's own. Default: None, as in `encode`.
        **options: Options of `embed_files`: id_column, keep_columns, quantization_config, prompt_name, prompt,
            batch_size, normalize_embeddings, truncate_dim, precision and others.
            `mlx_hf_bridge.corpora.options.EmbedOptions` describes them.

    Returns:
        For an output a CorpusResult, otherwise a ray.data.Dataset.

    Raises:
        InputError: As in `embed_files`; also without an output for files.
        BackendError: If Ray is not installed.

    Example:
        >>> from mlx_hf_bridge.integrations.ray import embed_dataset
        >>> embed_dataset("s3://bucket/articles", "all-MiniLM-L6-v2", "body", output="s3://bucket/embeddings").rows
        100000000
    """
    task = embed_task(model, text_column, options)
    return _compute(dataset_or_path, task, output, concurrency, ray_remote_args, show_progress_bar, options)


def rerank_dataset(
    dataset_or_path: Any,
    model: str | Path,
    query_column: str = "query",
    text_column: str = "text",
    *,
    output: str | Path | None = None,
    concurrency: Concurrency = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    show_progress_bar: bool | None = None,
    **options: Unpack[RerankOptions],
) -> Any:
    """Score the pairs of files or of a ray.data.Dataset on a Ray cluster.

    Args:
        dataset_or_path: A file, a folder or a list of files; or a ray.data.Dataset.
        model: A Hub id or folder of a reranker.
        query_column: The column with the queries. Default: "query".
        text_column: The column with the texts. Default: "text".
        output: The folder of the results. Default: None, for a dataset only: a dataset with the further columns
            "score" and "error" is returned.
        concurrency: How many actors compute: a number, or (fewest, most). Default: None, Ray's own choice.
        ray_remote_args: Further arguments of `ray.data.Dataset.map_batches`. Default: none.
        show_progress_bar: Whether to show a progress bar of rows, besides Ray's own. Default: None, as in `predict`.
        **options: Options of `rerank_files`; `mlx_hf_bridge.corpora.options.RerankOptions` describes them.

    Returns:
        For an output a CorpusResult, otherwise a ray.data.Dataset.

    Raises:
        InputError: As in `embed_dataset`.
        BackendError: If Ray is not installed.
    """
    task = rerank_task(model, query_column, text_column, options)
    return _compute(dataset_or_path, task, output, concurrency, ray_remote_args, show_progress_bar, options)


def classify_dataset(
    dataset_or_path: Any,
    model: str | Path,
    text_column: str = "text",
    *,
    pair_column: str | None = None,
    labels: Sequence[str] = (),
    output: str | Path | None = None,
    concurrency: Concurrency = None,
    ray_remote_args: Mapping[str, Any] | None = None,
    show_progress_bar: bool | None = None,
    **options: Unpack[ClassifyOptions],
) -> Any:
    """Label the texts of files or of a ray.data.Dataset on a Ray cluster.

    Args:
        dataset_or_path: A file, a folder or a list of files; or a ray.data.Dataset.
        model: A Hub id or folder of a text classifier; with `labels`, of a model trained on NLI.
        text_column: The column with the texts. Default: "text".
        pair_column: The column with the second texts, for a model of pairs. Default: None.
        labels: Labels of your own, for zero-shot classification. Default: those of the model.
        output: The folder of the results. Default: None, for a dataset only: a dataset with the further columns
            "label", "score", "labels" and "error" is returned.
        concurrency: How many actors compute: a number, or (fewest, most). Default: None, Ray's own choice.
        ray_remote_args: Further arguments of `ray.data.Dataset.map_batches`. Default: none.
        show_progress_bar: Whether to show a progress bar of rows, besides Ray's own. Default: None, as in `encode`.
        **options: Options of `classify_files`; `mlx_hf_bridge.corpora.options.ClassifyOptions` describes them.

    Returns:
        For an output a CorpusResult, otherwise a ray.data.Dataset.

    Raises:
        InputError: As in `embed_dataset`.
        BackendError: If Ray is not installed.
    """
    task = classify_task(model, text_column, pair_column, labels, options)
    return _compute(dataset_or_path, task, output, concurrency, ray_remote_args, show_progress_bar, options)


def run_job(
    opened: OpenJob, concurrency: Concurrency, remote: Mapping[str, Any], show_progress_bar: bool | None = None
) -> CorpusResult:
    """Compute the units of a job that are not done, on Ray.

    Args:
        opened: The job.
        concurrency: How many actors compute.
        remote: Arguments of `ray.data.Dataset.map`.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.

    Returns:
        What there is now.
    """
    pending = opened.pending()
    if pending:
        reports = _reports(opened.job, pending, {"concurrency": concurrency, **_resources(remote)})
        report_progress(opened, pending, reports, show_progress_bar)
    return conclude(opened, len(pending))


class _UnitActor:
    """An actor that computes units."""

    def __init__(self, job: bytes) -> None:
        self._worker = Worker(pickle.loads(job))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        # An error of ours is sent as a value: Ray would send the text of its traceback.
        try:
            report = self._worker.compute(pickle.loads(row["unit"]))
        except BridgeError as error:
            return {"report": b"", "error": pickle.dumps(error)}
        return {"report": pickle.dumps(report), "error": b""}


class _TableActor:
    """An actor that computes the rows of a dataset."""

    def __init__(self, task: Task) -> None:
        self._worker = TableWorker(task)

    def __call__(self, table: Any) -> Any:
        return self._worker.compute(table)


def _compute(
    given: Any,
    task: Task,
    output: str | Path | None,
    concurrency: Concurrency,
    remote: Mapping[str, Any] | None,
    show: bool | None,
    options: Mapping[str, Any],
) -> Any:
    ray = require("ray.data", "ray", "Ray Data")
    if isinstance(given, ray.data.Dataset):
        if output is None:
            size = options.get("chunk_size", CHUNK_SIZE)
            arguments = {"concurrency": concurrency, **_resources(remote)}
            given_task = {"fn_constructor_args": [task], "batch_size": size, "batch_format": "pyarrow"}
            return given.map_batches(_TableActor, **given_task, **arguments)
        given = _as_files(given, task, output, options)
    if output is None:
        raise InputError("files need a folder for the results. Give output, or a ray.data.Dataset.")
    if not isinstance(given, (str, os.PathLike, list, tuple)):
        raise ArgumentTypeError(
            f"got a {type(given).__name__}, expected a ray.data.Dataset, a path or a list of paths."
        )
    paths: Paths = given
    return run_job(open_job(paths, output, task, options), concurrency, remote or {}, show)


def _as_files(dataset: Any, task: Task, output: str | Path, options: Mapping[str, Any]) -> str:
    """Write the columns that are needed below the output folder, once; a dataset itself has no rows to come back to."""
    storage = Storage.at(f"{os.fspath(output)}/{_COPY}")
    # A relative path would be another one for actors.
    location = storage.folder if storage.local else f"{os.fspath(output)}/{_COPY}"
    if options.get("restart") or storage.read_json(_COPIED) is None:
        storage.remove([_COPIED, *(name for name, _, _ in storage.files())])
        columns = [*task.columns, options.get("id_column"), *(options.get("keep_columns") or ())]
        dataset.context.execution_options.preserve_order = True
        chosen = dataset.select_columns(list(dict.fromkeys(filter(None, columns))))
        chosen.write_parquet(location)
        storage.write_json(_COPIED, {"files": len(storage.files())})
    return location


def _reports(job: Job, units: Sequence[Unit], arguments: Mapping[str, Any]) -> Iterator[Report]:
    ray = require("ray.data", "ray", "Ray Data")
    # A block for each unit, so that Ray hands them out one by one.
    items = ray.data.from_items([{"unit": pickle.dumps(unit)} for unit in units], override_num_blocks=len(units))
    reports = items.map(_UnitActor, fn_constructor_args=[pickle.dumps(job)], **arguments)
    for row in reports.iter_rows():
        if row["error"]:
            raise pickle.loads(row["error"])
        yield pickle.loads(row["report"])


def _resources(remote: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arguments of an actor: by default one core, and as many threads as cores."""
    given = dict(remote or {})
    cores = str(max(1, int(given.setdefault("num_cpus", 1))))
    environment = {STREAMS_VARIABLE: cores, "OPENBLAS_NUM_THREADS": cores}
    runtime = dict(given.get("runtime_env") or {})
    given["runtime_env"] = {**runtime, "env_vars": {**environment, **runtime.get("env_vars", {})}}
    return {"max_restarts": -1, "max_task_retries": _RETRIES, **given}
