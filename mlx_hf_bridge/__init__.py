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
    from mlx_hf_bridge.sentence_transformers import (
        MLXCrossEncoder,
        MLXMultiVectorEncoder,
        MLXSentenceTransformer,
        MLXSparseEncoder,
    )
    from mlx_hf_bridge.verification.verify import verify
    from mlx_hf_bridge.zero_change import install, load_ipython_extension, uninstall, unload_ipython_extension

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
    "MLXCrossEncoder": "sentence_transformers",
    "MLXMultiVectorEncoder": "sentence_transformers",
    "MLXQuantizationConfig": "quantization.recipes",
    "MLXSentenceTransformer": "sentence_transformers",
    "MLXSparseEncoder": "sentence_transformers",
    "install": "zero_change",
    "load_ipython_extension": "zero_change",
    "pipeline": "pipelines",
    "uninstall": "zero_change",
    "unload_ipython_extension": "zero_change",
    "verify": "verification.verify",
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
    "MLXCrossEncoder",
    "MLXMultiVectorEncoder",
    "MLXQuantizationConfig",
    "MLXSentenceTransformer",
    "MLXSparseEncoder",
    "install",
    "load_ipython_extension",
    "pipeline",
    "uninstall",
    "unload_ipython_extension",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
