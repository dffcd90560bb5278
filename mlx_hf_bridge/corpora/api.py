"""embed_files, rerank_files and classify_files: a corpus of files to a folder of results, on one machine."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from mlx_hf_bridge.corpora.compute import Report
from mlx_hf_bridge.corpora.inputs import Unit
from mlx_hf_bridge.corpora.job import finish
from mlx_hf_bridge.corpora.opening import OpenJob, Paths, open_job
from mlx_hf_bridge.corpora.options import (
    ClassifyOptions,
    EmbedOptions,
    RerankOptions,
    classify_task,
    embed_task,
    rerank_task,
)
from mlx_hf_bridge.corpora.processes import compute_units
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.sentence_transformers.encoding.inputs import check_optional_count
from mlx_hf_bridge.sentence_transformers.encoding.streaming import progress_bar

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorpusResult:
    """What a run has left in its output folder.

    Args:
        output: The folder: part-*.parquet, in the order of the rows.
        units: How many units the corpus has; a part each.
        pending: How many of them are not done, because they belong to other shards.
        computed: How many units were computed in this run.
        rows: How many rows have results; None as long as units are pending.
        quarantined: How many rows have none; they are in the folder _quarantine. None as long as units are pending.
    """

    output: Path | str
    units: int
    pending: int
    computed: int
    rows: int | None = None
    quarantined: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether every unit is done, and the manifest is written."""
        return not self.pending


@guarded
def embed_files(
    inputs: Paths,
    output: str | Path,
    model: str | Path,
    text_column: str = "text",
    *,
    workers: int = 1,
    shard: str | None = None,
    show_progress_bar: bool | None = None,
    **options: Unpack[EmbedOptions],
) -> CorpusResult:
    """Write the embeddings of the texts of Parquet, Arrow, JSONL or CSV files to a folder of Parquet files.

    Rows keep their order and their ids. A row that cannot be embedded (a null, bytes that are not UTF-8, a line that is
    not JSON) is recorded with its reason in the folder _quarantine, and so is a file that cannot be read. After an
    interruption, even kill -9, the same call continues: nothing is lost, and nothing is there twice.

    Args:
        inputs: A file, a folder, which is searched with all folders below it, or a list of files: .parquet, .arrow,
            .feather, .jsonl, .ndjson, .csv or .tsv; text files may be compressed (.gz, .bz2, .zst). Paths or URIs
            (s3://bucket/folder).
        output: The folder of the results; created if needed.
        model: A Hub id or folder of an embedding model.
        text_column: The column with the texts. Default: "text".
        workers: How many processes compute, each with a copy of the model. Default: 1, this process, which uses all
            cores of a CPU, or the GPU.
        shard: Which part of the corpus this run computes, as "i/n" with i from 1 to n. The same n everywhere; shards
            may run at the same time, on other machines, in any order. Default: None, everything.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.
        **options: Further options: id_column (default: None, an id "<file>:<row>" is written), keep_columns,
            quantization_config, prompt_name, prompt, batch_size, normalize_embeddings, truncate_dim, precision
            ("float32", "binary" or "ubinary"), overlong, model_kwargs (a dict: further arguments of
            MLXSentenceTransformer), rows_per_unit (default 16384: rows of an output file), chunk_size (default 2048:
            rows that are read at a time) and restart (discard what an earlier run left). `EmbedOptions` describes them.

    Returns:
        What there is now. The files have the id, the kept columns and "embedding".

    Raises:
        InputError: If there are no files, a column is missing, no row can be read, or an earlier run had other
            settings, another model or other files.
        RepositoryError: If the folder cannot be written or has other files.
        BackendError: If pyarrow is not installed.
        WorkerError: If worker processes keep dying.

    Example:
        >>> from mlx_hf_bridge.corpora import embed_files
        >>> result = embed_files("articles/", "embeddings/", "all-MiniLM-L6-v2", "body", id_column="id")
        >>> result.rows, result.quarantined
        (100000, 0)
    """
    job = open_job(inputs, output, embed_task(model, text_column, options), options)
    return run_job(job, workers, shard, show_progress_bar)


@guarded
def rerank_files(
    inputs: Paths,
    output: str | Path,
    model: str | Path,
    query_column: str = "query",
    text_column: str = "text",
    *,
    workers: int = 1,
    shard: str | None = None,
    show_progress_bar: bool | None = None,
    **options: Unpack[RerankOptions],
) -> CorpusResult:
    """Write the score of each pair of a query and a text of Parquet, Arrow, JSONL or CSV files to Parquet files.

    Everything but the task is as in `embed_files`: order, ids, bad rows, and what happens after an interruption.

    Args:
        inputs: A file, a folder or a list of files.
        output: The folder of the results; created if needed.
        model: A Hub id or folder of a reranker.
        query_column: The column with the queries. Default: "query".
        text_column: The column with the texts. Default: "text".
        workers: How many processes compute, each with a copy of the model. Default: 1, this process.
        shard: Which part of the corpus this run computes, as "i/n" with i from 1 to n. Default: None, everything.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.
        **options: Further options: id_column, keep_columns, quantization_config, prompt_name, prompt, batch_size,
            apply_softmax, model_kwargs (a dict: further arguments of MLXCrossEncoder), rows_per_unit, chunk_size and
            restart. `RerankOptions` describes them.

    Returns:
        What there is now. The files have the id, the kept columns and "score": a number, or a list of numbers for a
        model with several labels.

    Raises:
        InputError: If there are no files, a column is missing, no row can be read, or an earlier run had other
            settings, another model or other files.
        RepositoryError: If the folder cannot be written or has other files.
        BackendError: If pyarrow is not installed.
        WorkerError: If worker processes keep dying.

    Example:
        >>> from mlx_hf_bridge.corpora import rerank_files
        >>> rerank_files("candidates.parquet", "scores/", "cross-encoder/ms-marco-MiniLM-L6-v2").rows
        100000
    """
    job = open_job(inputs, output, rerank_task(model, query_column, text_column, options), options)
    return run_job(job, workers, shard, show_progress_bar)


@guarded
def classify_files(
    inputs: Paths,
    output: str | Path,
    model: str | Path,
    text_column: str = "text",
    *,
    pair_column: str | None = None,
    labels: Sequence[str] = (),
    workers: int = 1,
    shard: str | None = None,
    show_progress_bar: bool | None = None,
    **options: Unpack[ClassifyOptions],
) -> CorpusResult:
    """Write the labels of the texts of Parquet, Arrow, JSONL or CSV files to a folder of Parquet files.

    Everything but the task is as in `embed_files`: order, ids, bad rows, and what happens after an interruption.

    Args:
        inputs: A file, a folder or a list of files.
        output: The folder of the results; created if needed.
        model: A Hub id or folder of a text classifier; with `labels`, of a model trained on NLI.
        text_column: The column with the texts. Default: "text".
        pair_column: The column with the second texts, for a model of pairs. Default: None.
        labels: Labels of your own, for zero-shot classification. Default: those of the model.
        workers: How many processes compute, each with a copy of the model. Default: 1, this process.
        shard: Which part of the corpus this run computes, as "i/n" with i from 1 to n. Default: None, everything.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.
        **options: Further options: id_column, keep_columns, quantization_config, batch_size, top_k (the number of
            labels that are kept), function_to_apply, and with labels hypothesis_template and multi_label;
            model_kwargs (a dict: further arguments of `pipeline`), rows_per_unit, chunk_size and restart.
            `ClassifyOptions` describes them.

    Returns:
        What there is now. The files have the id, the kept columns, "label" and "score" of the best label, and "labels":
        a list of {"label", "score"}, best first.

    Raises:
        InputError: If there are no files, a column is missing, no row can be read, or an earlier run had other
            settings, another model or other files.
        RepositoryError: If the folder cannot be written or has other files.
        BackendError: If pyarrow is not installed.
        WorkerError: If worker processes keep dying.

    Example:
        >>> from mlx_hf_bridge.corpora import classify_files
        >>> model = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> classify_files("reviews/", "labels/", model, "review").rows
        100000
    """
    job = open_job(inputs, output, classify_task(model, text_column, pair_column, labels, options), options)
    return run_job(job, workers, shard, show_progress_bar)


def run_job(
    opened: OpenJob, workers: int = 1, shard: str | None = None, show_progress_bar: bool | None = None
) -> CorpusResult:
    """Compute the units of a job that are not done, on this machine.

    Args:
        opened: The job.
        workers: How many processes compute. Default: 1, this process.
        shard: "i/n", or None for everything.
        show_progress_bar: Whether to show a progress bar. Default: None, as in `encode`.

    Returns:
        What there is now.

    Raises:
        BridgeError: What computing a unit raises.
    """
    check_optional_count("workers", workers)
    pending = opened.pending()
    mine = [unit for unit in pending if unit.number in shard_of(opened.units, shard)]
    report_progress(opened, mine, compute_units(opened.job, mine, workers or 1), show_progress_bar)
    return conclude(opened, len(mine))


def shard_of(units: Sequence[Unit], shard: str | None) -> range:
    """Return the numbers of the units of a shard: every n-th one, so that shards have work of all files.

    Args:
        units: All units.
        shard: "i/n", or None for all units.

    Returns:
        Their numbers.

    Raises:
        InputError: If the shard is not of that form.
    """
    if shard is None:
        return range(len(units))
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", shard, re.ASCII)
    number, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise InputError(f"shard={shard!r}, expected 'i/n' with i from 1 to n, such as '1/4'.")
    return range(number - 1, len(units), count)


def report_progress(opened: OpenJob, units: Sequence[Unit], reports: Iterable[Report], show: bool | None) -> None:
    """Show a progress bar of rows while reports come in.

    Args:
        opened: The job.
        units: The units that are computed.
        reports: What became of them.
        show: Whether to show it; None as in `encode`.
    """
    rows = [unit.rows for unit in units]
    total = None if None in rows else sum(row or 0 for row in rows)
    with progress_bar(show, total) as bar:
        for report in reports:
            bar.update(report.rows + report.quarantined + report.blank)


def conclude(opened: OpenJob, computed: int) -> CorpusResult:
    """Write the manifest if everything is done.

    Args:
        opened: The job.
        computed: How many units this run has computed.

    Returns:
        What there is now.
    """
    job, units = opened.job, opened.units
    pending = len(opened.pending())
    folder: Path | str = Path(job.output.folder) if job.output.local else job.output.folder
    if pending:
        return CorpusResult(folder, len(units), pending, computed)
    manifest = finish(job, units)
    if manifest["quarantined"]:
        logger.warning("%d rows have no result; see the folder _quarantine", manifest["quarantined"])
    return CorpusResult(folder, len(units), 0, computed, manifest["rows"], manifest["quarantined"])
