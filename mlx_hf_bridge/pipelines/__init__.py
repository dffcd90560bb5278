"""transformers.pipeline on MLX, without torch: the same arguments and results, with one file for each task."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TABLE_QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.architecture.gliner import ZERO_SHOT_NER
from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError, UnknownNameError
from mlx_hf_bridge.gliner.model import MLXGLiNER
from mlx_hf_bridge.pipelines.base import Pipeline
from mlx_hf_bridge.pipelines.default_models import default_model
from mlx_hf_bridge.pipelines.tokenizer import load_tokenizer
from mlx_hf_bridge.pretrained import auto
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.runtime.boundary import guarded


@dataclass(frozen=True)
class Task:
    """One pipeline task.

    file, name: the module of this package and its pipeline class. loader: the class whose from_pretrained loads the
    task's models. head: the head that a model must have; None for any.
    """

    file: str
    name: str
    loader: type[auto.MLXAutoModel] | type[MLXGLiNER]
    head: str | None

    def pipeline_class(self) -> type[Pipeline]:
        """Import and return the pipeline class; only when needed, because most of them import transformers' files.

        Returns:
            The pipeline class of the task.
        """
        found: type[Pipeline] = getattr(importlib.import_module(f"{__name__}.{self.file}"), self.name)
        return found


_CLASSIFIER = (auto.MLXAutoModelForSequenceClassification, SEQUENCE_CLASSIFICATION)
TASKS = {
    "feature-extraction": Task("feature_extraction", "FeatureExtractionPipeline", auto.MLXAutoModel, None),
    "fill-mask": Task("fill_mask", "FillMaskPipeline", auto.MLXAutoModelForMaskedLM, MASKED_LM),
    "question-answering": Task(
        "question_answering",
        "QuestionAnsweringPipeline",
        auto.MLXAutoModelForQuestionAnswering,
        QUESTION_ANSWERING,
    ),
    "table-question-answering": Task(
        "table_question_answering",
        "TableQuestionAnsweringPipeline",
        auto.MLXAutoModelForTableQuestionAnswering,
        TABLE_QUESTION_ANSWERING,
    ),
    "text-classification": Task("text_classification", "TextClassificationPipeline", *_CLASSIFIER),
    "text-ranking": Task("text_ranking", "TextRankingPipeline", *_CLASSIFIER),
    "token-classification": Task(
        "token_classification",
        "TokenClassificationPipeline",
        auto.MLXAutoModelForTokenClassification,
        TOKEN_CLASSIFICATION,
    ),
    "zero-shot-classification": Task("zero_shot_classification", "ZeroShotClassificationPipeline", *_CLASSIFIER),
    "zero-shot-ner": Task("zero_shot_ner", "ZeroShotNERPipeline", MLXGLiNER, ZERO_SHOT_NER),
}
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
_CLASSES = {task.name: task for task in TASKS.values()}
__all__ = ["Pipeline", "pipeline", *sorted(_CLASSES)]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return _CLASSES[name].pipeline_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@guarded
def pipeline(
    task: str,
    model: str | Path | MLXPreTrainedModel | MLXGLiNER | None = None,
    tokenizer: Any = None,
    *,
    quantization_config: QuantizationLike = None,
    dtype: Any = "auto",
    torch_dtype: Any = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    device: Any = None,
    device_map: Any = None,
    framework: Any = None,
    use_fast: bool = True,
    trust_remote_code: bool | None = None,
    model_kwargs: dict[str, Any] | None = None,
    trace: str = "auto",
    show_progress: bool = False,
    **defaults: Any,
) -> Pipeline:
    """Build a pipeline, like transformers.pipeline, that computes with MLX and needs no torch.

    Args:
        task: "feature-extraction", "fill-mask", "question-answering", "table-question-answering",
            "text-classification" (or "sentiment-analysis"), "text-ranking", "token-classification" (or "ner"),
            "zero-shot-classification" or "zero-shot-ner".
        model: A Hub id, a folder, or a model from the from_pretrained of an MLXAutoModel class or MLXGLiNER. Default:
            the model of the installed transformers for the task, at the revision that it pins; a warning names it.
        tokenizer: A Hub id, a folder or a tokenizer of transformers. Default: the model's own.
        quantization_config: A recipe's name ("q8", "q4", ...), a dict, an MLXQuantizationConfig, or None to keep the
            weights as they are.
        dtype: "auto" (the checkpoint's own; float16 for what is not quantized in a quantized model), a name such as
            "float32", or an mx or torch dtype.
        torch_dtype: The older name of dtype; used if dtype is "auto".
        revision: Branch, tag or commit on the Hub.
        token: The Hub's access token; True for the stored one.
        cache_dir: Folder of the Hub's cache.
        local_files_only: Whether to use only files that are already in the cache.
        force_download: Whether to download files again.
        subfolder: Folder of the model inside the repo.
        device: Accepted for code written for torch; has no effect, because MLX uses its own default device.
        device_map: Accepted without effect, like device.
        framework: Accepted without effect.
        use_fast: Accepted without effect; fast tokenizers are used.
        trust_remote_code: Accepted; code in a repo is never run.
        model_kwargs: More arguments of from_pretrained, as a dict.
        trace: "auto" traces a model type that has no MLX implementation here (needs torch once), "never" raises an
            error for it, "always" traces every model.
        show_progress: Whether calls show a progress bar. Default: False.
        defaults: Options of the task's calls (batch_size, top_k, candidate_labels, ...), used by calls that do not
            give them.

    Returns:
        The task's Pipeline, which takes texts and returns results in the form of transformers' pipeline.

    Raises:
        UnknownNameError: If the task is unknown (a KeyError).
        InputError: If there is no model, and transformers has no default for the task (a ValueError).
        ArgumentTypeError: If the model has another head, or the task does not take an option (a TypeError).
        BridgeError: Whatever from_pretrained raises; all errors of the package are of this class.

    Example:
        >>> from mlx_hf_bridge import pipeline
        >>> model = "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
        >>> classify = pipeline("text-classification", model=model, quantization_config="q8")
        >>> classify("A fine film.")[0]["label"]
        'POSITIVE'
    """
    entry = _find_task(task)
    hub = HubOptions(
        revision, token, None if cache_dir is None else str(cache_dir), local_files_only, force_download, subfolder
    )
    loading: dict[str, Any] = {
        "quantization_config": quantization_config,
        "dtype": torch_dtype if torch_dtype is not None and dtype == "auto" else dtype,
        **({} if trace == "auto" else {"trace": trace}),
        **({} if trust_remote_code is None else {"trust_remote_code": trust_remote_code}),
        **(model_kwargs or {}),
    }
    mlx_model = _load_model(task, entry, model, loading, hub)
    own = isinstance(mlx_model, MLXGLiNER)
    pipeline_tokenizer = tokenizer if own else load_tokenizer(tokenizer, mlx_model.loaded, hub)
    return entry.pipeline_class()(mlx_model, pipeline_tokenizer, show_progress=show_progress, **defaults)


def _find_task(name: Any) -> Task:
    known = ALIASES.get(name, name) if isinstance(name, str) else None
    if known not in TASKS:
        names = ", ".join(sorted({*TASKS, *ALIASES}))
        raise UnknownNameError(f"Unknown task {name!r}, available tasks are {names}. Use one of them.")
    return TASKS[known]


def _load_model(name: str, task: Task, model: Any, loading: dict[str, Any], hub: HubOptions) -> Any:
    """Load the model of a name; return a model as it is, if it has the task's head."""
    loader = task.loader.__name__
    if model is None:
        model, revision = default_model(ALIASES.get(name, name), hub.revision)
        hub = replace(hub, revision=revision)
    if isinstance(model, (str, Path)):
        return task.loader.from_pretrained(model, **{**vars(hub), **loading})
    if not _has_head(model, task):
        raise ArgumentTypeError(
            f"model is {model!r}, expected a Hub id, a folder or a model that {loader}.from_pretrained gave. "
            "Pass the model's name instead."
        )
    # Neutral values are passed by programs that name all arguments.
    too_late = [key for key, value in loading.items() if value not in (None, "auto", False)]
    if too_late or hub.revision is not None:
        raise ArgumentTypeError(
            f"model is already loaded, so {', '.join(too_late or ['revision'])} cannot be applied. Pass it to "
            f"{loader}.from_pretrained."
        )
    return model


def _has_head(model: Any, task: Task) -> bool:
    """Whether a loaded model has the head that the task needs."""
    if task.loader is MLXGLiNER or isinstance(model, MLXGLiNER):
        return task.loader is MLXGLiNER and isinstance(model, MLXGLiNER)
    return isinstance(model, MLXPreTrainedModel) and task.head in (None, model.loaded.task)
