"""The model that sentence-transformers' Transformer module gets for `backend="mlx"`. Imports torch.

Reference: sentence_transformers/base/modules/transformer.py, Transformer._load_model.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.facade import facade
from mlx_hf_bridge.facade.model import torch_dtype
from mlx_hf_bridge.pretrained.auto import MLXAutoModel, MLXAutoModelForMaskedLM, MLXAutoModelForSequenceClassification
from mlx_hf_bridge.pretrained.model import MLXPreTrainedModel
from mlx_hf_bridge.sentence_transformers.backend.batching import BatchSplittingModel

_AUTO_CLASSES: dict[str, type[MLXAutoModel]] = {
    "feature-extraction": MLXAutoModel,
    "sequence-classification": MLXAutoModelForSequenceClassification,
    "fill-mask": MLXAutoModelForMaskedLM,
}


def load_backend(
    name: str, transformer_task: str, config: PretrainedConfig, model_kwargs: Mapping[str, Any]
) -> PreTrainedModel:
    """Load a model for sentence-transformers, computed by MLX.

    Args:
        name: A Hub id or a folder.
        transformer_task: "feature-extraction", "sequence-classification" or "fill-mask".
        config: The config that sentence-transformers has read.
        model_kwargs: Keyword arguments of `MLXAutoModel.from_pretrained`, among them `quantization_config` and `dtype`.

    Returns:
        An instance of the checkpoint's transformers class, whose forward is computed by MLX.

    Raises:
        UnsupportedModelError: If the task or the model type is not supported.
    """
    if transformer_task not in _AUTO_CLASSES:
        raise UnsupportedModelError(
            f"{name} is loaded for {transformer_task!r}, and backend='mlx' supports {', '.join(_AUTO_CLASSES)}. "
            "Leave backend out for this model."
        )
    model = _AUTO_CLASSES[transformer_task].from_pretrained(name, config=config, **model_kwargs)
    return facade(BatchSplittingModel(model.loaded), config, dtype=_output_dtype(model, model_kwargs))


def _output_dtype(model: MLXPreTrainedModel, model_kwargs: Mapping[str, Any]) -> torch.dtype:
    """Return the dtype that was requested, else that of the weights; float32 for quantized weights."""
    requested = model_kwargs.get("dtype") or model_kwargs.get("torch_dtype") or "auto"
    if requested == "auto":
        return torch.float32 if model.quantization_config else torch_dtype(model.dtype)
    chosen: torch.dtype = getattr(torch, str(requested).rpartition(".")[2])
    return chosen
