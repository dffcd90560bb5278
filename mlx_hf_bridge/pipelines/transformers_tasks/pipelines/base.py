"""A replacement of transformers.pipelines.base for transformers' pipeline files: its names, this project's classes."""

import importlib
import sys
from typing import Any

from mlx_hf_bridge.errors import MaskError
from mlx_hf_bridge.pipelines.base import ChunkPipeline, Pipeline

__all__ = ["ArgumentHandler", "ChunkPipeline", "Dataset", "GenericTensor", "Pipeline", "PipelineException"]

REAL = "transformers.pipelines.base"
# Streams are handled in pipelines/inputs.py, before a task's file sees them, so no class has to be recognized here.
Dataset = None
GenericTensor = Any


class ArgumentHandler:
    """The base of transformers' argument handlers; it has no behavior of its own."""


def PipelineException(task: str, model: str, reason: str) -> MaskError:
    """Build the error for a fill-mask text without mask token.

    It is also an instance of transformers' PipelineException if that module is imported, so that `except` clauses work.

    Args:
        task: The task's name; unused.
        model: The model's name; unused.
        reason: What is wrong.

    Returns:
        The error to raise.
    """
    message = f"{reason}. Put the tokenizer's mask token where a word is missing."
    # If transformers' class is imported, a caller may catch it, so the error is an instance of both.
    real = sys.modules.get(REAL)
    if real is None:
        return MaskError(message)
    kind = type("MaskError", (MaskError, real.PipelineException), {"__init__": MaskError.__init__})
    error: MaskError = kind(message)
    return error


def build_pipeline_init_args(**parts: bool) -> str:
    """Return the text that transformers inserts into its docstrings, which nothing needs here.

    Args:
        parts: What transformers' function takes; unused.

    Returns:
        An empty string.
    """
    return ""


def __getattr__(name: str) -> Any:
    """Return transformers' own object for names that a later transformers may need, at the price of importing torch."""
    if name.startswith("__"):  # Python itself asks for these
        raise AttributeError(name)
    return getattr(importlib.import_module(REAL), name)
