"""transformers.pipeline on MLX, without torch: texts -> HF-shaped results, one file per task."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import (
    MASKED_LM,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.checkpoints.sources import HubOptions
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.pipelines.base import Pipeline
from mlx_hf_bridge.pipelines.tokenizer import load_tokenizer
from mlx_hf_bridge.pretrained import auto
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.quantization.recipes import QuantizationLike


@dataclass(frozen=True)
class Task:
    """A task's file and class, the class whose from_pretrained loads its models, and the head that they have."""

    file: str
    name: str
    loader: type[auto.MLXAutoModel]
    head: str | None

    def pipeline_class(self) -> type[Pipeline]:
        """Imported when it is asked for: most of these run transformers' files."""
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
    "text-classification": Task("text_classification", "TextClassificationPipeline", *_CLASSIFIER),
    "text-ranking": Task("text_ranking", "TextRankingPipeline", *_CLASSIFIER),
    "token-classification": Task(
        "token_classification",
        "TokenClassificationPipeline",
        auto.MLXAutoModelForTokenClassification,
        TOKEN_CLASSIFICATION,
    ),
    "zero-shot-classification": Task("zero_shot_classification", "ZeroShotClassificationPipeline", *_CLASSIFIER),
}
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}
_CLASSES = {task.name: task for task in TASKS.values()}
__all__ = ["Pipeline", "pipeline", *sorted(_CLASSES)]


def __getattr__(name: str) -> Any:
    if name in _CLASSES:
        return _CLASSES[name].pipeline_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def pipeline(
    task: str,
    model: str | Path | MLXPreTrainedModel | None = None,
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
    """A task's name and a model -> a callable that answers texts as transformers' pipeline does.

    model: a Hub id, a folder, or a model that from_pretrained of an MLXAutoModel class gave. tokenizer: a Hub id, a
    folder or a tokenizer of transformers; None = the model's own. quantization_config, dtype (torch_dtype: its older
    name), trace, the Hub's arguments and model_kwargs: as that from_pretrained takes them. device, device_map,
    framework and use_fast are taken for the sake of code written for torch: MLX computes on its own device. defaults:
    what the task's calls take (batch_size, top_k, candidate_labels, ...), for calls that do not say otherwise.

    Raises UnknownNameError (KeyError) for an unknown task, InputError (ValueError) without a model, ArgumentTypeError
    (TypeError) for arguments that the task does not take, and what from_pretrained raises.
    """
    chosen = _task(task)
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
    ready = _load_model(task, chosen, model, loading, hub)
    reader = load_tokenizer(tokenizer, ready.loaded, hub)
    return chosen.pipeline_class()(ready, reader, show_progress=show_progress, **defaults)


def _task(name: Any) -> Task:
    known = ALIASES.get(name, name) if isinstance(name, str) else None
    if known not in TASKS:
        names = ", ".join(sorted({*TASKS, *ALIASES}))
        raise UnknownNameError(f"Unknown task {name!r}, available tasks are {names}. Use one of them.")
    return TASKS[known]


def _load_model(name: str, task: Task, model: Any, loading: dict[str, Any], hub: HubOptions) -> MLXPreTrainedModel:
    """A name -> its model; a model -> itself, if it has the task's head."""
    loader = task.loader.__name__
    if model is None:
        raise InputError(f"no model was named, and {name} has no default here. Pass model=, a Hub id or a folder.")
    if isinstance(model, (str, Path)):
        loaded: MLXPreTrainedModel = task.loader.from_pretrained(model, **{**vars(hub), **loading})
        return loaded
    if not isinstance(model, MLXPreTrainedModel) or task.head not in (None, model.loaded.task):
        raise ArgumentTypeError(
            f"model is {model!r}, expected a Hub id, a folder or a model that {loader}.from_pretrained gave. "
            "Pass its name instead."
        )
    late = [key for key, value in loading.items() if value not in (None, "auto", False)]
    if late or hub.revision is not None:
        raise ArgumentTypeError(
            f"model is loaded already, so {', '.join(late or ['revision'])} comes too late. Pass it to "
            f"{loader}.from_pretrained."
        )
    return model
