"""transformers.pipelines.base for transformers' pipeline files: the same names, over our base class."""

import importlib
import sys
from typing import Any

from mlx_hf_bridge.errors import MaskError
from mlx_hf_bridge.pipelines.base import ChunkPipeline, Pipeline

__all__ = ["ArgumentHandler", "ChunkPipeline", "Dataset", "GenericTensor", "Pipeline", "PipelineException"]

REAL = "transformers.pipelines.base"
# What streams is decided in inputs.py, before a task's file sees it.
Dataset = None
GenericTensor = Any


class ArgumentHandler:
    """The base of transformers' classes that read a call's arguments; it has no behaviour of its own."""


def PipelineException(task: str, model: str, reason: str) -> MaskError:
    """The error that a fill-mask text without mask is; of transformers' type too where a caller can have named that."""
    message = f"{reason}. Put the tokenizer's mask token where a word is to be found."
    real = sys.modules.get(REAL)
    if real is None:
        return MaskError(message)
    kind = type("MaskError", (MaskError, real.PipelineException), {"__init__": MaskError.__init__})
    error: MaskError = kind(message)
    return error


def build_pipeline_init_args(**parts: bool) -> str:
    """Text that transformers puts in its docstrings."""
    return ""


def __getattr__(name: str) -> Any:
    """What a later transformers may ask for: its own, at the price of importing torch."""
    if name.startswith("__"):  # Python's own questions about a module
        raise AttributeError(name)
    return getattr(importlib.import_module(REAL), name)
