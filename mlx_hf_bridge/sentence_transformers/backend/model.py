"""The model that sentence-transformers' Transformer module is given for backend="mlx". Imports torch.

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

_AUTOS: dict[str, type[MLXAutoModel]] = {
    "feature-extraction": MLXAutoModel,
    "sequence-classification": MLXAutoModelForSequenceClassification,
    "fill-mask": MLXAutoModelForMaskedLM,
}


def load_backend(
    name: str, transformer_task: str, config: PretrainedConfig, model_kwargs: Mapping[str, Any]
) -> PreTrainedModel:
    """A Hub id or folder -> its transformers class, computed by MLX.

    model_kwargs: MLXAutoModel.from_pretrained's, quantization_config among them, with its errors.
    UnsupportedModelError for a task that MLX does not compute.
    """
    if transformer_task not in _AUTOS:
        raise UnsupportedModelError(
            f"{name} is loaded for {transformer_task!r}, and backend='mlx' computes {', '.join(_AUTOS)}. Leave backend "
            "out for this model."
        )
    model = _AUTOS[transformer_task].from_pretrained(name, config=config, **model_kwargs)
    return facade(BatchSplittingModel(model.loaded), config, dtype=_answer_dtype(model, model_kwargs))


def _answer_dtype(model: MLXPreTrainedModel, model_kwargs: Mapping[str, Any]) -> torch.dtype:
    """As asked, else the dtype of the weights; packed ones answer in float32, in which all that follows computes."""
    asked = model_kwargs.get("dtype") or model_kwargs.get("torch_dtype") or "auto"
    if asked == "auto":
        return torch.float32 if model.quantization_config else torch_dtype(model.dtype)
    chosen: torch.dtype = getattr(torch, str(asked).rpartition(".")[2])
    return chosen
