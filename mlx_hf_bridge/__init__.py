"""mlx_hf_bridge: encoder models of Hugging Face transformers and sentence-transformers on MLX."""

import importlib
from typing import TYPE_CHECKING, Any

from mlx_hf_bridge import errors
from mlx_hf_bridge.errors import *  # noqa: F403
from mlx_hf_bridge.runtime import device as device
from mlx_hf_bridge.version import __version__ as __version__

if TYPE_CHECKING:
    from mlx_hf_bridge.conversion.api import convert
    from mlx_hf_bridge.pipelines import pipeline
    from mlx_hf_bridge.pretrained.auto import (
        MLXAutoModel,
        MLXAutoModelForMaskedLM,
        MLXAutoModelForMultipleChoice,
        MLXAutoModelForNextSentencePrediction,
        MLXAutoModelForPreTraining,
        MLXAutoModelForQuestionAnswering,
        MLXAutoModelForSequenceClassification,
        MLXAutoModelForTokenClassification,
    )
    from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
    from mlx_hf_bridge.sentence_transformers import (
        MLXCrossEncoder,
        MLXMultiVectorEncoder,
        MLXSentenceTransformer,
        MLXSparseEncoder,
    )
    from mlx_hf_bridge.verification.verify import verify
    from mlx_hf_bridge.zero_change import install, load_ipython_extension, uninstall, unload_ipython_extension

# Imported on first use, so that `import mlx_hf_bridge` stays cheap. Type checkers read the imports above.
_LAZY = {
    "pretrained.auto": (
        "MLXAutoModel",
        "MLXAutoModelForMaskedLM",
        "MLXAutoModelForMultipleChoice",
        "MLXAutoModelForNextSentencePrediction",
        "MLXAutoModelForPreTraining",
        "MLXAutoModelForQuestionAnswering",
        "MLXAutoModelForSequenceClassification",
        "MLXAutoModelForTokenClassification",
    ),
    "conversion.api": ("convert",),
    "pipelines": ("pipeline",),
    "quantization.recipes": ("MLXQuantizationConfig",),
    "sentence_transformers": ("MLXCrossEncoder", "MLXMultiVectorEncoder", "MLXSentenceTransformer", "MLXSparseEncoder"),
    "verification.verify": ("verify",),
    "zero_change": ("install", "load_ipython_extension", "uninstall", "unload_ipython_extension"),
}
_HOMES = {name: module for module, names in _LAZY.items() for name in names}
__all__ = sorted([*errors.__all__, *_HOMES])


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
