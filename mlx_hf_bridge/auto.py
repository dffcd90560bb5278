"""MLXAutoModel and its heads: transformers' from_pretrained, call and save_pretrained, computed by MLX.

Reference: transformers/models/auto/auto_factory.py, transformers/modeling_utils.py.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.arrays import in_kind, to_numpy, whole_numbers
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, RepositoryError
from mlx_hf_bridge.family import BASE_TASK, SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.inference.batching import checked_batch
from mlx_hf_bridge.inference.model import Encoded
from mlx_hf_bridge.inference.run import run
from mlx_hf_bridge.loading.load import Loaded, load
from mlx_hf_bridge.loading.source import HubOptions
from mlx_hf_bridge.outputs import BaseModelOutput, BaseModelOutputWithPooling, ModelOutput, SequenceClassifierOutput
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, QuantizationLike

logger = logging.getLogger(__name__)


class ModelConfig:
    """config.json as attributes, under HF's general names too (`hidden_size` of a DistilBERT)."""

    def __init__(self, loaded: Loaded) -> None:
        self._raw = loaded.raw_config
        self._checked = loaded.config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if hasattr(self._checked, name):
            return getattr(self._checked, name)
        if name in self._raw:
            return self._raw[name]
        raise AttributeError(f"config.json has no {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """config.json's content."""
        return dict(self._raw)

    def __repr__(self) -> str:
        return f"ModelConfig({self._raw})"


class MLXPreTrainedModel:
    """A model that answers as its transformers counterpart does. Made by from_pretrained of an MLXAutoModel class."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.config = ModelConfig(loaded)
        self.name_or_path = loaded.source.name

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype in which unpacked weights are stored."""
        return self._loaded.dtype

    @property
    def quantization_config(self) -> MLXQuantizationConfig | None:
        """The recipe that packed the weights; None for float ones."""
        return self._loaded.recipe

    @property
    def folder(self) -> Path:
        """The converted folder that the weights were read from."""
        return self._loaded.folder

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        *,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Token ids -> outputs in the kind of `input_ids` (mx, numpy or torch).

        input_ids, attention_mask (1 = token, 0 = padding), token_type_ids, position_ids: all (B, L). Returns the
        output that transformers' class returns, or its tuple with return_dict=False. Raises TokenRangeError for ids
        or positions outside the model's tables, InputError for shapes that do not fit.
        """
        if input_ids is None:
            raise InputError("input_ids is missing. Pass token ids (B, L), as a tokenizer gives them.")
        ids = whole_numbers("input_ids", input_ids)
        mask = _beside(ids, "attention_mask", attention_mask)
        segments = self._segments(_beside(ids, "token_type_ids", token_type_ids))
        places = _beside(ids, "position_ids", position_ids)
        states = self._asked(output_hidden_states, "output_hidden_states")
        weights = self._asked(output_attentions, "output_attentions")

        def forward() -> Encoded:
            batch = checked_batch(self._loaded.config, ids, mask, segments, places)
            return self._loaded.model(batch, states, weights)

        output = self._output(run(forward), input_ids)
        as_dict = self.config.to_dict().get("return_dict", True) if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the converted folder: it loads back here, in MLX tools, and unquantised in transformers."""
        target = Path(save_directory)
        if target.is_file():
            raise RepositoryError(f"{target} is a file, expected a folder to save into. Give another path.")
        if target.resolve() != self.folder.resolve():
            shutil.copytree(self.folder, target, dirs_exist_ok=True, copy_function=shutil.copyfile)

    def __repr__(self) -> str:
        recipe = self._loaded.recipe
        packing = f"{recipe.bits} bits, groups of {recipe.group_size}, {recipe.mode}" if recipe else "not quantised"
        return f"{self._hf_class()} on MLX ({self.name_or_path!r}, {packing}, {self.dtype})"

    def _hf_class(self) -> str:
        family, task = self._loaded.family, self._loaded.task
        return family.hf_class if task == BASE_TASK else family.heads[task].hf_class

    def _asked(self, argument: bool | None, key: str) -> bool:
        return bool(self.config.to_dict().get(key, False)) if argument is None else bool(argument)

    def _segments(self, segments: np.ndarray | None) -> np.ndarray | None:
        if segments is not None and not self._loaded.family.uses_segments and segments.any():
            raise InputError(
                f"token_type_ids has values other than 0, and {self._hf_class()} has no segments. Leave it out."
            )
        return segments

    def _output(self, encoded: Encoded, like: Any) -> ModelOutput:
        def answer(array: mx.array | None) -> Any:
            return None if array is None else in_kind(array, like)

        traced = {
            "hidden_states": encoded.states and tuple(answer(array) for array in encoded.states),
            "attentions": encoded.weights and tuple(answer(array) for array in encoded.weights),
        }
        if self._loaded.task == SEQUENCE_CLASSIFICATION:
            return SequenceClassifierOutput(logits=answer(encoded.logits), **traced)
        hidden = answer(encoded.hidden)
        if self._loaded.family.pooler is None:
            return BaseModelOutput(last_hidden_state=hidden, **traced)
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=answer(encoded.pooled), **traced)


def _beside(ids: np.ndarray, name: str, given: Any) -> np.ndarray | None:
    """An argument as numpy, in the shape of the ids ((1, L) is spread over the texts)."""
    if given is None:
        return None
    array = to_numpy(given) if name == "attention_mask" else whole_numbers(name, given)
    if array.shape != ids.shape and array.shape != (1, *ids.shape[1:]):
        raise InputError(f"{name} has the shape {array.shape}, expected that of input_ids, {ids.shape}.")
    return np.broadcast_to(array, ids.shape)


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
        if cls._task == BASE_TASK and add_pooling_layer and loaded.family.pooler and "pooler" not in loaded.model:
            logger.warning("%s has no pooler, so pooler_output is absent", pretrained_model_name_or_path)
        return MLXPreTrainedModel(loaded)


def _refuse(name: str, arguments: list[str]) -> NoReturn:
    raise ArgumentTypeError(
        f"{name}.from_pretrained() got {', '.join(arguments)}, which it does not take. Leave it out; for quantised "
        "weights pass quantization_config."
    )


class MLXAutoModelForSequenceClassification(MLXAutoModel):
    """transformers.AutoModelForSequenceClassification on MLX."""

    _task = SEQUENCE_CLASSIFICATION
