"""transformers.pipeline on MLX, without torch: texts -> HF-shaped results, one file per task."""

from pathlib import Path
from typing import Any

from mlx_hf_bridge.auto import MLXAutoModelForSequenceClassification
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, UnknownNameError
from mlx_hf_bridge.family import SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.loading.source import HubOptions
from mlx_hf_bridge.pipelines.classifier import Pipeline
from mlx_hf_bridge.pipelines.text_classification import TextClassificationPipeline
from mlx_hf_bridge.pipelines.tokenizer import tokenizer_for
from mlx_hf_bridge.pipelines.zero_shot_classification import ZeroShotClassificationPipeline
from mlx_hf_bridge.pretrained import MLXPreTrainedModel
from mlx_hf_bridge.quantization.recipes import QuantizationLike

__all__ = ["Pipeline", "TextClassificationPipeline", "ZeroShotClassificationPipeline", "pipeline"]

TASKS: dict[str, type[TextClassificationPipeline] | type[ZeroShotClassificationPipeline]] = {
    "sentiment-analysis": TextClassificationPipeline,
    "text-classification": TextClassificationPipeline,
    "zero-shot-classification": ZeroShotClassificationPipeline,
}


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
    show_progress: bool = False,
    **defaults: Any,
) -> Pipeline:
    """A task's name and a model -> a callable that answers texts as transformers' pipeline does.

    model: a Hub id, a folder, or a model of MLXAutoModelForSequenceClassification. tokenizer: a Hub id, a folder or a
    fast tokenizer of transformers; None = the model's own. quantization_config, dtype (torch_dtype: its older name)
    and the Hub's arguments: as MLXAutoModelForSequenceClassification.from_pretrained takes them. device, device_map
    and framework are taken for the sake of code written for torch: MLX computes on its own device. defaults: what the
    task's calls take (batch_size, top_k, candidate_labels, ...), for calls that do not say otherwise.

    Raises UnknownNameError (KeyError) for an unknown task, InputError (ValueError) without a model, ArgumentTypeError
    (TypeError) for arguments that the task does not take, and what from_pretrained raises.
    """
    if not isinstance(task, str) or task not in TASKS:
        raise UnknownNameError(f"Unknown task {task!r}, available tasks are {', '.join(TASKS)}. Use one of them.")
    hub = HubOptions(
        revision, token, None if cache_dir is None else str(cache_dir), local_files_only, force_download, subfolder
    )
    wanted = torch_dtype if torch_dtype is not None and dtype == "auto" else dtype
    ready = _ready(task, model, quantization_config, wanted, hub)
    return TASKS[task](ready, tokenizer_for(tokenizer, ready.loaded, hub), show_progress, **defaults)


def _ready(task: str, model: Any, quantization: QuantizationLike, dtype: Any, hub: HubOptions) -> MLXPreTrainedModel:
    """A name -> its model; a model -> itself, if it classifies."""
    if model is None:
        raise InputError(f"no model was named, and {task} has no default here. Pass model=, a Hub id or a folder.")
    if isinstance(model, (str, Path)):
        return MLXAutoModelForSequenceClassification.from_pretrained(
            model, quantization_config=quantization, dtype=dtype, **vars(hub)
        )
    if not isinstance(model, MLXPreTrainedModel) or model.loaded.task != SEQUENCE_CLASSIFICATION:
        raise ArgumentTypeError(
            f"model is {model!r}, expected a Hub id, a folder or a model that "
            "MLXAutoModelForSequenceClassification.from_pretrained gave. Pass its name instead."
        )
    if quantization is not None or dtype not in ("auto", None) or hub.revision is not None:
        raise ArgumentTypeError(
            "model is loaded already, so quantization_config, dtype and revision come too late. Pass them to "
            "MLXAutoModelForSequenceClassification.from_pretrained."
        )
    return model
