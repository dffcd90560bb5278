"""A batch that is computed alone, as for one who waits for the answer to one query.

MLX computes nothing until it is asked to. On a CPU, describing a short text's forward pass takes about as long as some
of its layers, so that asking after each layer saves the wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from mlx_hf_bridge.runtime.device import EVALUATES_EARLY

_alone: ContextVar[bool] = ContextVar("_alone", default=False)


@contextmanager
def single_batch_mode() -> Iterator[None]:
    """Within the block one batch is served, and nothing is calibrated, trained or computed beside it."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def in_single_batch_mode() -> bool:
    """Whether this is within such a block."""
    return _alone.get()


def start_evaluation(array: mx.array) -> None:
    """Let MLX start on an array that will be needed, without waiting for it, where that is faster."""
    if EVALUATES_EARLY and _alone.get():
        mx.async_eval(array)
