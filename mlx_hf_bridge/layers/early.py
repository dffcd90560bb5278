"""Layers that are computed while the next ones are still being described to MLX.

MLX computes nothing until it is asked to. On a CPU, describing a short text's forward pass takes about as long as some
of its layers, so that asking after each layer saves the wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from mlx_hf_bridge.device import STARTS_EARLY

_early: ContextVar[bool] = ContextVar("_early", default=False)


@contextmanager
def starting_early() -> Iterator[None]:
    """Within the block, on CPUs, `begin` has arrays computed; elsewhere it does nothing."""
    token = _early.set(STARTS_EARLY)
    try:
        yield
    finally:
        _early.reset(token)


def begin(array: mx.array) -> None:
    """Let MLX start on an array that will be needed, without waiting for it."""
    if _early.get():
        mx.async_eval(array)
