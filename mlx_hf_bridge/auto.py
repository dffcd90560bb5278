"""MLXAutoModel and its heads: transformers' from_pretrained, computed by MLX.

Reference: transformers/models/auto/auto_factory.py.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from mlx_hf_bridge.errors import ArgumentTypeError, RepositoryError
from mlx_hf_bridge.family import (
    BASE_TASK,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.loading.load import load
from mlx_hf_bridge.loading.source import HubOptions
from mlx_hf_bridge.pretrained import MLXPreTrainedModel, model_of
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

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        quantization_config: QuantizationLike = None,
        dtype: Any = "auto",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        add_pooling_layer: bool = True,
        **unknown: Any,
    ) -> MLXPreTrainedModel:
        """A Hub id or folder, converted once into the cache, as a model that is ready to run.

        quantization_config: a recipe's name ("q8", "q4", ...), a dict, an MLXQuantizationConfig, or None to keep the
        weights. dtype: "auto" (the checkpoint's own; float16 beside packed weights), a name, an mx or torch dtype.
        The others are huggingface_hub's. Raises RepositoryError, CheckpointError, ConfigError, WeightsError,
        UnsupportedModelError or QuantizationError, which are also what transformers raises for the same faults.
        """
        if unknown:
            _refuse(cls.__name__, sorted(unknown))
        loaded = load(
            pretrained_model_name_or_path,
            cls._task,
            quantization_config=quantization_config,
            dtype=dtype,
            options=HubOptions(
                revision,
                token,
                None if cache_dir is None else str(cache_dir),
                local_files_only,
                force_download,
                subfolder,
            ),
            pooler=add_pooling_layer,
        )
        expected = loaded.family.pooler is not None and loaded.family.bare_pooler
        if cls._task == BASE_TASK and add_pooling_layer and expected and "pooler" not in loaded.model:
            logger.warning("%s has no pooler, so pooler_output is absent", pretrained_model_name_or_path)
        return model_of(loaded)


def _refuse(name: str, arguments: list[str]) -> NoReturn:
    raise ArgumentTypeError(
        f"{name}.from_pretrained() got {', '.join(arguments)}, which it does not take. Leave it out; for quantised "
        "weights pass quantization_config."
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
