"""mlx_hf_bridge: encoder models of Hugging Face transformers and sentence-transformers on MLX."""

import importlib
from typing import TYPE_CHECKING, Any

from mlx_hf_bridge import errors
from mlx_hf_bridge.errors import *  # noqa: F403
from mlx_hf_bridge.runtime.interrupts import is_installed_command
from mlx_hf_bridge.version import __version__ as __version__

# Before MLX, since it loads a BLAS. The installed command imports it when it computes, so that --help is fast.
if not is_installed_command():
    from mlx_hf_bridge.runtime import device as device

if TYPE_CHECKING:
    # "as" marks a name as exported, which strict type checkers ask for.
    from mlx_hf_bridge.conversion.api import convert as convert
    from mlx_hf_bridge.gliner.model import MLXGLiNER as MLXGLiNER
    from mlx_hf_bridge.inspection import Inspection as Inspection
    from mlx_hf_bridge.inspection import inspect as inspect
    from mlx_hf_bridge.pipelines import pipeline as pipeline
    from mlx_hf_bridge.pretrained.auto import MLXAutoModel as MLXAutoModel
    from mlx_hf_bridge.pretrained.auto import MLXAutoModelForEntityClassification as MLXAutoModelForEntityClassification
    from mlx_hf_bridge.pretrained.auto import (
        MLXAutoModelForEntityPairClassification as MLXAutoModelForEntityPairClassification,
    )
    from mlx_hf_bridge.pretrained.auto import (
        MLXAutoModelForEntitySpanClassification as MLXAutoModelForEntitySpanClassification,
    )
    from mlx_hf_bridge.pretrained.auto import MLXAutoModelForMaskedLM as MLXAutoModelForMaskedLM
    from mlx_hf_bridge.pretrained.auto import MLXAutoModelForMultipleChoice as MLXAutoModelForMultipleChoice
    from mlx_hf_bridge.pretrained.auto import (
        MLXAutoModelForNextSentencePrediction as MLXAutoModelForNextSentencePrediction,
    )
    from mlx_hf_bridge.pretrained.auto import MLXAutoModelForPreTraining as MLXAutoModelForPreTraining
    from mlx_hf_bridge.pretrained.auto import MLXAutoModelForQuestionAnswering as MLXAutoModelForQuestionAnswering
    from mlx_hf_bridge.pretrained.auto import (
        MLXAutoModelForSequenceClassification as MLXAutoModelForSequenceClassification,
    )
    from mlx_hf_bridge.pretrained.auto import (
        MLXAutoModelForTableQuestionAnswering as MLXAutoModelForTableQuestionAnswering,
    )
    from mlx_hf_bridge.pretrained.auto import MLXAutoModelForTokenClassification as MLXAutoModelForTokenClassification
    from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig as MLXQuantizationConfig
    from mlx_hf_bridge.sentence_transformers import MLXCrossEncoder as MLXCrossEncoder
    from mlx_hf_bridge.sentence_transformers import MLXMultiVectorEncoder as MLXMultiVectorEncoder
    from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer as MLXSentenceTransformer
    from mlx_hf_bridge.sentence_transformers import MLXSparseEncoder as MLXSparseEncoder
    from mlx_hf_bridge.verification.verify import verify as verify
    from mlx_hf_bridge.zero_change import install as install
    from mlx_hf_bridge.zero_change import load_ipython_extension as load_ipython_extension
    from mlx_hf_bridge.zero_change import uninstall as uninstall
    from mlx_hf_bridge.zero_change import unload_ipython_extension as unload_ipython_extension

# Imported on first use, so that `import mlx_hf_bridge` stays cheap. Type checkers read the imports above.
_LAZY = {
    "pretrained.auto": (
        "MLXAutoModel",
        "MLXAutoModelForEntityClassification",
        "MLXAutoModelForEntityPairClassification",
        "MLXAutoModelForEntitySpanClassification",
        "MLXAutoModelForMaskedLM",
        "MLXAutoModelForMultipleChoice",
        "MLXAutoModelForNextSentencePrediction",
        "MLXAutoModelForPreTraining",
        "MLXAutoModelForQuestionAnswering",
        "MLXAutoModelForSequenceClassification",
        "MLXAutoModelForTableQuestionAnswering",
        "MLXAutoModelForTokenClassification",
    ),
    "conversion.api": ("convert",),
    "gliner.model": ("MLXGLiNER",),
    "inspection": ("Inspection", "inspect"),
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
