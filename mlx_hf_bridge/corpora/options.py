"""The options that the runners on one machine, on Ray and on Spark share, and the tasks that they describe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from mlx_hf_bridge.corpora.tasks import ClassifyTexts, EmbedTexts, RerankPairs
from mlx_hf_bridge.errors import ArgumentTypeError
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.sentence_transformers.encoding.streaming import check_streamable_precision


class JobOptions(TypedDict, total=False):
    """Options of every task.

    Keys:
        id_column: The column that identifies rows, which is written with the results. A row whose id is null is
            quarantined. Default: None, "id" is written as "<file>:<number of the row>".
        keep_columns: Further columns that are written with the results. Default: none.
        rows_per_unit: How many rows an output file has, and how many are computed again after a crash. CSV and
            compressed files are not divided. Default: 16384.
        chunk_size: How many rows are read and computed at a time. Default: 2048.
        restart: Discard what an earlier run left in the output folder. Default: False.
        quantization_config: A recipe's name ("q8", "q4", ...), a dict or an MLXQuantizationConfig. Default: None.
        batch_size: Bounds the number of tokens in a batch, as in `encode`. Default: 32.
        model_kwargs: Further arguments that the model is loaded with, such as {"revision": "main"}. Default: none.
    """

    id_column: str | None
    keep_columns: Sequence[str]
    rows_per_unit: int
    chunk_size: int
    restart: bool
    quantization_config: QuantizationLike
    batch_size: int
    model_kwargs: Mapping[str, Any] | None


class EmbedOptions(JobOptions, total=False):
    """Options of embeddings.

    Keys:
        prompt_name: The name of the prompt to put before every text. Default: None, the model's default.
        prompt: A text to put before every text. Default: None.
        normalize_embeddings: Scale embeddings to length 1. Default: False.
        truncate_dim: How many dimensions are kept. Default: None, the model's `truncate_dim`.
        precision: "float32" (default), "binary" or "ubinary".
        overlong: "truncate", or "error" to quarantine texts of more tokens than the model takes. Default: None, as the
            model was loaded.
        task: The task of a model that has several, such as "document". Default: None.
    """

    prompt_name: str | None
    prompt: str | None
    normalize_embeddings: bool
    truncate_dim: int | None
    precision: str
    overlong: str | None
    task: str | None


class RerankOptions(JobOptions, total=False):
    """Options of scores of pairs.

    Keys:
        prompt_name: The name of the prompt to put before every query. Default: None, the model's default.
        prompt: A text to put before every query. Default: None.
        apply_softmax: Apply a softmax over the labels. Default: False.
    """

    prompt_name: str | None
    prompt: str | None
    apply_softmax: bool


class ClassifyOptions(JobOptions, total=False):
    """Options of labels.

    Keys:
        top_k: How many labels are kept, best first. Default: None, all.
        function_to_apply: "sigmoid", "softmax" or "none". Default: None, what the model's config asks for.
        hypothesis_template: The sentence that a label is put into, for labels of the caller's own. Default: the
            pipeline's.
        multi_label: Whether several of such labels may fit. Default: False.
    """

    top_k: int | None
    function_to_apply: str | None
    hypothesis_template: str
    multi_label: bool


_JOB = tuple(JobOptions.__annotations__)
# A value that is given and is the default is no other setting. Every other default is None.
_DEFAULTS = {"batch_size": 32, "normalize_embeddings": False, "precision": "float32", "apply_softmax": False}
ROWS_PER_UNIT = 16384


def embed_task(model: str | Path, text_column: str, options: Mapping[str, Any]) -> EmbedTexts:
    """Return the task of embedding texts.

    Args:
        model: A Hub id or folder.
        text_column: The column with the texts.
        options: EmbedOptions.

    Returns:
        The task.

    Raises:
        ArgumentTypeError: If an option is unknown.
        InputError: If the precision needs the ranges of all embeddings.
    """
    calls = _call_options("embed", EmbedOptions, options)
    check_streamable_precision(calls.get("precision", "float32"))
    return EmbedTexts(model=str(model), columns=(text_column,), loading=_loading(options), options=calls)


def rerank_task(model: str | Path, query_column: str, text_column: str, options: Mapping[str, Any]) -> RerankPairs:
    """Return the task of scoring pairs.

    Args:
        model: A Hub id or folder.
        query_column: The column with the queries.
        text_column: The column with the texts.
        options: RerankOptions.

    Returns:
        The task.

    Raises:
        ArgumentTypeError: If an option is unknown.
    """
    calls = _call_options("rerank", RerankOptions, options)
    columns = (query_column, text_column)
    return RerankPairs(model=str(model), columns=columns, loading=_loading(options), options=calls)


def classify_task(
    model: str | Path, text_column: str, pair_column: str | None, labels: Sequence[str], options: Mapping[str, Any]
) -> ClassifyTexts:
    """Return the task of labeling texts.

    Args:
        model: A Hub id or folder.
        text_column: The column with the texts.
        pair_column: The column with the second texts, or None.
        labels: Labels of the caller's own; none for those of the model.
        options: ClassifyOptions.

    Returns:
        The task.

    Raises:
        ArgumentTypeError: If an option is unknown.
    """
    calls = _call_options("classify", ClassifyOptions, options)
    columns = (text_column,) if pair_column is None else (text_column, pair_column)
    given: dict[str, Any] = {"loading": _loading(options), "options": calls, "labels": tuple(labels)}
    return ClassifyTexts(model=str(model), columns=columns, **given)


def _loading(options: Mapping[str, Any]) -> dict[str, Any]:
    quantization = options.get("quantization_config")
    chosen = {} if quantization is None else {"quantization_config": quantization}
    return {**(options.get("model_kwargs") or {}), **chosen}


def _call_options(task: str, known: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of each call of the model, without those of the job and of loading."""
    if unknown := sorted(set(options) - set(known.__annotations__)):
        raise ArgumentTypeError(
            f"{task} does not take {', '.join(unknown)}. It takes {', '.join(sorted(known.__annotations__))}; "
            "arguments of the model's class go into model_kwargs."
        )
    return {
        name: value
        for name, value in options.items()
        if value != _DEFAULTS.get(name) and (name not in _JOB or name == "batch_size")
    }
