"""MLXAutoModel and its heads: transformers' from_pretrained, computed by MLX.

Reference: transformers/models/auto/auto_factory.py.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, overload

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.errors import RepositoryError, UnservedUseError
from mlx_hf_bridge.loading.load import load
from mlx_hf_bridge.pretrained.arguments import parse_arguments
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel, create_model
from mlx_hf_bridge.quantization.recipes import QuantizationLike

logger = logging.getLogger(__name__)


class MLXAutoModel:
    """transformers.AutoModel on MLX: the bare encoder of any supported model_type."""

    _task: ClassVar[str] = BASE_TASK

    def __init__(self) -> None:
        name = type(self).__name__
        raise RepositoryError(
            f"{name} is designed to be instantiated using `{name}.from_pretrained(pretrained_model_name_or_path)`."
        )

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        quantization_config: QuantizationLike = None,
        dtype: Any = None,
        output_loading_info: Literal[True],
        trace: str = "auto",
        **kwargs: Any,
    ) -> tuple[MLXPreTrainedModel, dict[str, Any]]: ...

    @overload
    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        quantization_config: QuantizationLike = None,
        dtype: Any = None,
        trace: str = "auto",
        **kwargs: Any,
    ) -> MLXPreTrainedModel: ...

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *model_args: Any,
        quantization_config: QuantizationLike = None,
        dtype: Any = None,
        trace: str = "auto",
        **kwargs: Any,
    ) -> Any:
        """A Hub id or folder, converted once into the cache, as a model that is ready to run.

        quantization_config: a recipe's name ("q8", "q4", ...), a dict, an MLXQuantizationConfig, or None to keep the
        weights. dtype: None or "auto" (the checkpoint's own; float16 beside packed weights), a name, an mx or torch
        dtype. trace: "auto" runs transformers' own module as a graph where its model_type has no file here (torch is
        needed for that one conversion), "never" refuses such, "always" traces any. All others are transformers', keys
        of the config among them: docs/compatibility.md has the table. With output_loading_info=True a tuple, the model
        and its load report. Raises RepositoryError, CheckpointError, ConfigError, WeightsError, UnsupportedModelError,
        QuantizationError or ArgumentTypeError, which are also what transformers raises for the same faults.
        """
        given = {**kwargs, "quantization_config": quantization_config, "dtype": dtype}
        request = parse_arguments(cls.__name__, cls._task, model_args, given)
        loaded = load(
            pretrained_model_name_or_path,
            cls._task,
            quantization_config=request.quantization_config,
            dtype=request.dtype,
            options=request.options,
            pooler=request.pooler,
            changes=request.changes,
            trace=trace,
        )
        loaded.report.log(loaded.family.hf_class_name(loaded.task), str(pretrained_model_name_or_path))
        if kwargs.get("trust_remote_code") and "auto_map" in loaded.raw_config:
            logger.warning("%s has code of its own, which is not run", pretrained_model_name_or_path)
        model = create_model(loaded)
        return (model, loaded.report.to_dict()) if request.output_loading_info else model

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> NoReturn:
        """Refused with UnservedUseError: a model made from a config alone has random weights."""
        raise UnservedUseError(
            f"{cls.__name__}.from_config() would make a model of random weights, which only training can use. "
            "Use from_pretrained, or transformers on torch to train."
        )


class MLXAutoModelForMaskedLM(MLXAutoModel):
    """transformers.AutoModelForMaskedLM on MLX: scores of every word for every token."""

    _task = MASKED_LM


class MLXAutoModelForSequenceClassification(MLXAutoModel):
    """transformers.AutoModelForSequenceClassification on MLX: scores of the labels for every text."""

    _task = SEQUENCE_CLASSIFICATION


class MLXAutoModelForTokenClassification(MLXAutoModel):
    """transformers.AutoModelForTokenClassification on MLX: scores of the labels for every token."""

    _task = TOKEN_CLASSIFICATION


class MLXAutoModelForQuestionAnswering(MLXAutoModel):
    """transformers.AutoModelForQuestionAnswering on MLX: scores of every token as start and end of the answer."""

    _task = QUESTION_ANSWERING


class MLXAutoModelForMultipleChoice(MLXAutoModel):
    """transformers.AutoModelForMultipleChoice on MLX: scores of the choices, input_ids (B, choices, L)."""

    _task = MULTIPLE_CHOICE


class MLXAutoModelForNextSentencePrediction(MLXAutoModel):
    """transformers.AutoModelForNextSentencePrediction on MLX: whether the second text follows the first."""

    _task = NEXT_SENTENCE


class MLXAutoModelForPreTraining(MLXAutoModel):
    """transformers.AutoModelForPreTraining on MLX: what the family was trained on."""

    _task = PRE_TRAINING
