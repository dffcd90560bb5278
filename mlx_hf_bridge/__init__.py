"""mlx_hf_bridge: encoder models of Hugging Face transformers and sentence-transformers on MLX."""

import importlib
from typing import TYPE_CHECKING, Any

from mlx_hf_bridge import device as device

if TYPE_CHECKING:
    from mlx_hf_bridge.auto import (
        MLXAutoModel,
        MLXAutoModelForMaskedLM,
        MLXAutoModelForMultipleChoice,
        MLXAutoModelForNextSentencePrediction,
        MLXAutoModelForPreTraining,
        MLXAutoModelForQuestionAnswering,
        MLXAutoModelForSequenceClassification,
        MLXAutoModelForTokenClassification,
    )
    from mlx_hf_bridge.pipelines import pipeline
    from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
    from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

__version__ = "0.1.0"

_HOMES = {
    "MLXAutoModel": "auto",
    "MLXAutoModelForMaskedLM": "auto",
    "MLXAutoModelForMultipleChoice": "auto",
    "MLXAutoModelForNextSentencePrediction": "auto",
    "MLXAutoModelForPreTraining": "auto",
    "MLXAutoModelForQuestionAnswering": "auto",
    "MLXAutoModelForSequenceClassification": "auto",
    "MLXAutoModelForTokenClassification": "auto",
    "MLXQuantizationConfig": "quantization.recipes",
    "MLXSentenceTransformer": "sentence_transformers",
    "pipeline": "pipelines",
}
__all__ = [
    "MLXAutoModel",
    "MLXAutoModelForMaskedLM",
    "MLXAutoModelForMultipleChoice",
    "MLXAutoModelForNextSentencePrediction",
    "MLXAutoModelForPreTraining",
    "MLXAutoModelForQuestionAnswering",
    "MLXAutoModelForSequenceClassification",
    "MLXAutoModelForTokenClassification",
    "MLXQuantizationConfig",
    "MLXSentenceTransformer",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
