"""MLXAutoModel and its task-specific classes: transformers' from_pretrained, computed by MLX.

Reference: transformers/models/auto/auto_factory.py.
"""

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, overload

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    ENTITY_CLASSIFICATION,
    ENTITY_PAIR_CLASSIFICATION,
    ENTITY_SPAN_CLASSIFICATION,
    MASKED_LM,
    MULTIPLE_CHOICE,
    NEXT_SENTENCE,
    PRE_TRAINING,
    QUESTION_ANSWERING,
    SEQUENCE_CLASSIFICATION,
    TABLE_QUESTION_ANSWERING,
    TOKEN_CLASSIFICATION,
)
from mlx_hf_bridge.errors import RepositoryError, UnservedUseError
from mlx_hf_bridge.loading.load import load
from mlx_hf_bridge.pretrained.arguments import note_custom_code, parse_arguments
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel, create_model
from mlx_hf_bridge.quantization.recipes import QuantizationLike
from mlx_hf_bridge.runtime.boundary import PublicAPI

logger = logging.getLogger(__name__)


class MLXAutoModel(PublicAPI):
    """transformers.AutoModel on MLX: the encoder without a head, for any supported model_type."""

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
        """Load a model from a Hub id or folder, converting it once into the local cache.

        Every argument of transformers' from_pretrained is accepted by name; docs/compatibility.md has a row for each.

        Args:
            pretrained_model_name_or_path: A Hub id ("organization/name"), or a folder with a config.json and weights
                (safetensors, or .bin files of plain tensors). It may be a LoRA adapter, or a folder converted before.
            *model_args: At most `add_pooling_layer` (bool, default True), for the encoder without a head.
            quantization_config: A recipe's name ("q8", "q4", ...), a dict, an MLXQuantizationConfig or transformers'
                MetalConfig. None keeps the weights as they are. `bits` and `group_size` may be given by name instead.
            dtype: The dtype that weights are stored in: "float32", "float16", "bfloat16", or that dtype of mx, torch or
                numpy. None or "auto" is the checkpoint's own (float16 for the tensors next to quantized ones).
            trace: "auto" runs transformers' own module as a graph if its model_type is not implemented here (torch is
                needed for that conversion), "never" refuses such a model, "always" traces any model.
            **kwargs: transformers' other arguments. `revision`, `token`, `cache_dir`, `local_files_only`,
                `force_download`, `subfolder`, `variant` and `use_safetensors` choose the files. `config` (an object,
                dict or path) replaces config.json, and any key of the config (`num_labels`, `output_attentions`, ...)
                overrides it. `output_loading_info=True` returns the load report too. `ignore_mismatched_sizes=True`
                initializes a missing or differently shaped head at random. `device_map`, `attn_implementation`,
                `low_cpu_mem_usage`, `trust_remote_code` and the like are accepted and change nothing.

        Returns:
            An MLXPreTrainedModel in evaluation mode, its class named like the transformers class (`BertModel`). With
            `output_loading_info=True`, a tuple of it and a dict with missing_keys, unexpected_keys, mismatched_keys and
            error_msgs.

        Raises:
            RepositoryError: If the repo, folder or a file that is needed is not found.
            CheckpointError: If a weight file is broken, truncated or in a format that cannot be read.
            ConfigError: If config.json or `dtype` has a missing or unsupported value.
            WeightsError: If tensors are missing, unexpected, or of another shape than the config says.
            UnsupportedModelError: If the model_type, or this head of it, is not implemented.
            QuantizationError: If the recipe is unknown, or contradicts how the weights are already quantized.
            ArgumentTypeError: If an argument is unknown, or asks for what only transformers on torch has.

        Example:
            ```python
            from transformers import AutoTokenizer
            from mlx_hf_bridge import MLXAutoModel

            tokenizer = AutoTokenizer.from_pretrained("sentence-transformers/all-MiniLM-L6-v2")
            model = MLXAutoModel.from_pretrained("sentence-transformers/all-MiniLM-L6-v2", quantization_config="q8")
            outputs = model(**tokenizer(["a text"], return_tensors="np"))
            outputs.last_hidden_state.shape  # (1, 4, 384)
            ```
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
        note_custom_code(str(pretrained_model_name_or_path), loaded.raw_config, kwargs.get("trust_remote_code"))
        model = create_model(loaded)
        return (model, loaded.report.to_dict()) if request.output_loading_info else model

    @classmethod
    def from_config(cls, config: Any, **kwargs: Any) -> NoReturn:
        """Raise UnservedUseError: a model built from only a config has random weights.

        Args:
            config: Not used.
            **kwargs: Not used.

        Raises:
            UnservedUseError: Always.
        """
        raise UnservedUseError(
            f"{cls.__name__}.from_config() would make a model of random weights, which are only useful for training. "
            "Use from_pretrained, or transformers on torch to train."
        )


class MLXAutoModelForMaskedLM(MLXAutoModel):
    """transformers.AutoModelForMaskedLM on MLX: logits (B, L, vocab_size) over the vocabulary for every token."""

    _task = MASKED_LM


class MLXAutoModelForSequenceClassification(MLXAutoModel):
    """transformers.AutoModelForSequenceClassification on MLX: logits (B, num_labels) for every text."""

    _task = SEQUENCE_CLASSIFICATION


class MLXAutoModelForTokenClassification(MLXAutoModel):
    """transformers.AutoModelForTokenClassification on MLX: logits (B, L, num_labels) for every token."""

    _task = TOKEN_CLASSIFICATION


class MLXAutoModelForQuestionAnswering(MLXAutoModel):
    """transformers.AutoModelForQuestionAnswering on MLX: start_logits and end_logits (B, L) of the answer span."""

    _task = QUESTION_ANSWERING


class MLXAutoModelForTableQuestionAnswering(MLXAutoModel):
    """transformers.AutoModelForTableQuestionAnswering on MLX: logits (B, L) of cells and logits_aggregation (B, A)."""

    _task = TABLE_QUESTION_ANSWERING


class MLXAutoModelForMultipleChoice(MLXAutoModel):
    """transformers.AutoModelForMultipleChoice on MLX: logits (B, N) for N choices, from input_ids (B, N, L)."""

    _task = MULTIPLE_CHOICE


class MLXAutoModelForNextSentencePrediction(MLXAutoModel):
    """transformers.AutoModelForNextSentencePrediction on MLX: logits (B, 2), index 0 if the second text follows."""

    _task = NEXT_SENTENCE


class MLXAutoModelForPreTraining(MLXAutoModel):
    """transformers.AutoModelForPreTraining on MLX: the logits of the model's pretraining tasks."""

    _task = PRE_TRAINING


class MLXAutoModelForEntityClassification(MLXAutoModel):
    """LUKE's entity classification (LukeForEntityClassification): logits (B, num_labels) of each first entity."""

    _task = ENTITY_CLASSIFICATION


class MLXAutoModelForEntityPairClassification(MLXAutoModel):
    """LUKE's relation classification (LukeForEntityPairClassification): logits (B, num_labels) of two entities."""

    _task = ENTITY_PAIR_CLASSIFICATION


class MLXAutoModelForEntitySpanClassification(MLXAutoModel):
    """LUKE's entity recognition (LukeForEntitySpanClassification): logits (B, E, num_labels) of every entity."""

    _task = ENTITY_SPAN_CLASSIFICATION
