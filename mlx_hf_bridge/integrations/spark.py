"""Embed, rerank and classify on a Spark cluster: `pip install 'mlx-hf-bridge[spark]'`.

Everything runs in Spark's Python workers by `DataFrame.mapInArrow` (mapInPandas without the conversion to pandas). Each
worker process loads the model with its first batch and keeps it; nothing but the model's name is sent to it.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, Unpack

from pyspark import keyword_only
from pyspark.ml import Transformer
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsWritable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from mlx_hf_bridge.corpora.api import CorpusResult, conclude
from mlx_hf_bridge.corpora.inputs import Unit
from mlx_hf_bridge.corpora.job import Job, stored_units
from mlx_hf_bridge.corpora.opening import OpenJob, open_job
from mlx_hf_bridge.corpora.options import (
    ClassifyOptions,
    EmbedOptions,
    RerankOptions,
    classify_task,
    embed_task,
    rerank_task,
)
from mlx_hf_bridge.corpora.processes import worker_of
from mlx_hf_bridge.corpora.storage import pyarrow
from mlx_hf_bridge.corpora.tables import ERROR
from mlx_hf_bridge.corpora.tables import worker_of as table_worker_of
from mlx_hf_bridge.corpora.tasks import Task
from mlx_hf_bridge.errors import ArgumentTypeError, InputError

# The Spark types of the columns of results.
_TYPES = {
    "embed": "embedding array<float>",
    "rerank": "score float",
    "classify": "label string, score float, labels array<struct<label: string, score: float>>",
}


def embed_dataset(
    dataframe_or_path: Any,
    model: str | Path,
    text_column: str = "text",
    *,
    output: str | Path | None = None,
    spark: SparkSession | None = None,
    **options: Unpack[EmbedOptions],
) -> Any:
    """Embed the texts of files or of a DataFrame on a Spark cluster.

    For files this is `mlx_hf_bridge.corpora.embed_files` on all executors: rows keep their order and ids, bad rows are
    quarantined, and the same call continues after an interruption. All executors must be able to read the files and
    write the output. A task that fails is repeated by Spark, and replaces its part with the same one.

    Args:
        dataframe_or_path: A file, a folder or a list of files, as in `embed_files`; or a DataFrame.
        model: A Hub id or folder of an embedding model. Each machine converts it once.
        text_column: The column with the texts. Default: "text".
        output: For files, the folder of the results. Default: None, for a DataFrame, which is returned with further
            columns, to be written by Spark.
        spark: The session. Default: None, that of the DataFrame, or the active one.
        **options: Options of `embed_files`; `mlx_hf_bridge.corpora.options.EmbedOptions` describes them. Of a
            DataFrame, all columns are kept.

    Returns:
        For files a CorpusResult; for a DataFrame one with the columns "embedding" and "error", which is null but for
        rows that cannot be embedded.

    Raises:
        InputError: As in `embed_files`; also without an output for files, or with one for a DataFrame.

    Example:
        >>> from mlx_hf_bridge.integrations.spark import embed_dataset
        >>> embed_dataset(spark.table("articles"), "all-MiniLM-L6-v2", "body").write.saveAsTable("embeddings")
    """
    return _compute(dataframe_or_path, embed_task(model, text_column, options), output, spark, options)


def rerank_dataset(
    dataframe_or_path: Any,
    model: str | Path,
    query_column: str = "query",
    text_column: str = "text",
    *,
    output: str | Path | None = None,
    spark: SparkSession | None = None,
    **options: Unpack[RerankOptions],
) -> Any:
    """Score the pairs of files or of a DataFrame on a Spark cluster.

    Args:
        dataframe_or_path: A file, a folder or a list of files; or a DataFrame.
        model: A Hub id or folder of a reranker with one label.
        query_column: The column with the queries. Default: "query".
        text_column: The column with the texts. Default: "text".
        output: For files, the folder of the results. Default: None, for a DataFrame.
        spark: The session. Default: None, that of the DataFrame, or the active one.
        **options: Options of `rerank_files`; `mlx_hf_bridge.corpora.options.RerankOptions` describes them.

    Returns:
        For files a CorpusResult; for a DataFrame one with the columns "score" and "error".

    Raises:
        InputError: As in `embed_dataset`.
    """
    return _compute(dataframe_or_path, rerank_task(model, query_column, text_column, options), output, spark, options)


def classify_dataset(
    dataframe_or_path: Any,
    model: str | Path,
    text_column: str = "text",
    *,
    pair_column: str | None = None,
    labels: Sequence[str] = (),
    output: str | Path | None = None,
    spark: SparkSession | None = None,
    **options: Unpack[ClassifyOptions],
) -> Any:
    """Label the texts of files or of a DataFrame on a Spark cluster.

    Args:
        dataframe_or_path: A file, a folder or a list of files; or a DataFrame.
        model: A Hub id or folder of a text classifier; with `labels`, of a model trained on NLI.
        text_column: The column with the texts. Default: "text".
        pair_column: The column with the second texts, for a model of pairs. Default: None.
        labels: Labels of your own, for zero-shot classification. Default: those of the model.
        output: For files, the folder of the results. Default: None, for a DataFrame.
        spark: The session. Default: None, that of the DataFrame, or the active one.
        **options: Options of `classify_files`; `mlx_hf_bridge.corpora.options.ClassifyOptions` describes them.

    Returns:
        For files a CorpusResult; for a DataFrame one with the columns "label", "score", "labels" and "error".

    Raises:
        InputError: As in `embed_dataset`.
    """
    task = classify_task(model, text_column, pair_column, labels, options)
    return _compute(dataframe_or_path, task, output, spark, options)


class MLXEmbedder(Transformer, HasInputCol, HasOutputCol, DefaultParamsReadable, DefaultParamsWritable):
    """A stage of a pyspark.ml.Pipeline that adds the embeddings of a column of texts, and can be saved.

    Args:
        model: A Hub id or folder of an embedding model.
        inputCol: The column with the texts. Default: "text".
        outputCol: The column of the embeddings, array<float>. Default: "embedding".
        options: Options of `embed_dataset`, such as {"quantization_config": "q8"}. Default: none.

    Example:
        >>> from mlx_hf_bridge.integrations.spark import MLXEmbedder
        >>> MLXEmbedder(model="all-MiniLM-L6-v2", inputCol="body").transform(articles).select("id", "embedding")
    """

    model = Param(Params._dummy(), "model", "A Hub id or folder of an embedding model.", TypeConverters.toString)
    options = Param(Params._dummy(), "options", "Options of embed_dataset.")

    @keyword_only
    def __init__(
        self,
        *,
        model: str | None = None,
        inputCol: str | None = None,
        outputCol: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(inputCol="text", outputCol="embedding", options={})
        self._set(**{name: value for name, value in self._input_kwargs.items() if value is not None})

    def _transform(self, dataset: DataFrame) -> DataFrame:
        if not self.isDefined("model"):
            raise InputError("MLXEmbedder has no model. Give the name of one.")
        options = dict(self.getOrDefault("options"))
        found = embed_dataset(dataset, self.getOrDefault("model"), self.getInputCol(), **options)
        frame: DataFrame = found.withColumnRenamed("embedding", self.getOutputCol())
        return frame


def run_job(opened: OpenJob, spark: SparkSession | None = None) -> CorpusResult:
    """Compute the units of a job that are not done, on Spark.

    Args:
        opened: The job.
        spark: The session. Default: None, the active one, or a new one.

    Returns:
        What there is now.
    """
    pending = [unit.number for unit in opened.pending()]
    if pending:
        session = spark or SparkSession.builder.getOrCreate()
        # A partition for each unit, so that a task that fails repeats one unit.
        numbers = session.range(0, len(pending), 1, len(pending))
        schema = "unit long, rows long, quarantined long, blank long"
        numbers.mapInArrow(_unit_mapper(opened.job, pending), schema).collect()
    return conclude(opened, len(pending))


def _compute(
    given: Any, task: Task, output: str | Path | None, spark: SparkSession | None, options: Mapping[str, Any]
) -> Any:
    if not isinstance(given, (str, os.PathLike, list, tuple)):
        if not hasattr(given, "mapInArrow"):
            raise ArgumentTypeError(f"got a {type(given).__name__}, expected a DataFrame, a path or a list of paths.")
        if output is not None:
            raise InputError("a DataFrame is returned with further columns. Leave output out, and write it by Spark.")
        return _with_results(given, task)
    if output is None:
        raise InputError("files need a folder for the results. Give output, or a DataFrame.")
    return run_job(open_job(given, output, task, options), spark)


def _with_results(frame: DataFrame, task: Task) -> DataFrame:
    taken = {ERROR, *(part.split()[0] for part in _TYPES[task.name].split(", "))} & set(frame.columns)
    if taken:
        raise InputError(f"the DataFrame has a column {min(taken)!r} already. Rename it.")
    if missing := [name for name in task.columns if name not in frame.columns]:
        raise InputError(f"the DataFrame has no column {missing[0]!r}, only {frame.columns}.")
    binary = task.name == "embed" and task.options.get("precision", "float32") != "float32"
    types = "embedding array<short>" if binary else _TYPES[task.name]
    added = StructType.fromDDL(f"{types}, {ERROR} string").fields
    return frame.mapInArrow(_table_mapper(task, binary), StructType([*frame.schema.fields, *added]))


def _table_mapper(task: Task, binary: bool) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return the function that Spark runs on batches of rows; it is sent to workers with its two arguments."""

    def compute(batches: Iterator[Any]) -> Iterator[Any]:
        pa, worker = pyarrow(), table_worker_of(task)
        for batch in batches:
            table = worker.compute(pa.Table.from_batches([batch]))
            yield from _for_spark(table, binary).to_batches()

    return compute


def _for_spark(table: Any, binary: bool) -> Any:
    """Return a table with embeddings as Spark reads them: lists of any size; bits in shorts, since bytes are signed."""
    pa = pyarrow()
    if "embedding" not in table.column_names:
        return table
    kind = pa.list_(pa.int16() if binary else pa.float32())
    at = table.column_names.index("embedding")
    return table.set_column(at, "embedding", table.column(at).cast(kind))


def _unit_mapper(job: Job, numbers: list[int]) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """Return the function that Spark runs on positions in the list of units, which it finds in the output folder."""

    def compute(batches: Iterator[Any]) -> Iterator[Any]:
        pa, worker = pyarrow(), worker_of(job)
        for batch in batches:
            for position in batch.column(0).to_pylist():
                report = worker.compute(_unit(job, numbers[position]))
                columns = ["unit", "rows", "quarantined", "blank"]
                yield pa.RecordBatch.from_arrays([pa.array([value]) for value in astuple(report)], columns)

    return compute


_units: dict[str, list[Unit]] = {}


def _unit(job: Job, number: int) -> Unit:
    """Return a unit of the plan, which a process reads once for each job and length."""
    known = _units.get(job.digest, [])
    if number >= len(known):
        _units.clear()
        known = _units[job.digest] = stored_units(job)
    return known[number]
