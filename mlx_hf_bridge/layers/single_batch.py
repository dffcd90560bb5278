"""Single-batch mode: what makes one short request faster on a CPU.

MLX is lazy: it computes nothing until an array is needed. On a CPU, building the graph of a short text's forward pass
in Python takes about as long as computing some of its layers. Starting to evaluate after each layer lets MLX compute
while Python builds the rest.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

from mlx_hf_bridge.runtime.device import EVALUATES_EARLY

# A context variable: another thread that encodes many texts at the same time must not see it.
_single_batch: ContextVar[bool] = ContextVar("_single_batch", default=False)
_repeatable: ContextVar[bool] = ContextVar("_repeatable", default=False)


@contextmanager
def single_batch_mode() -> Iterator[None]:
    """Declare that one batch is served inside the `with` block, and that nothing else runs at the same time.

    Linear layers may then use their packed tiles (layers/small_batch.py), and layers are evaluated one by one.
    Calibration, training and corpora stay outside of it: tiles round differently, so a text's result would depend on
    whether another batch runs with it.

    Yields:
        Nothing.
    """
    token = _single_batch.set(True)
    try:
        yield
    finally:
        _single_batch.reset(token)


@contextmanager
def repeatable_results() -> Iterator[None]:
    """Declare that results inside the `with` block do not depend, to the last bit, on what was computed before.

    Packed tiles, which are used for a batch that runs alone and round differently, are not used.

    Yields:
        Nothing.
    """
    token = _repeatable.set(True)
    try:
        yield
    finally:
        _repeatable.reset(token)


def may_use_tiles() -> bool:
    """Return whether linear layers may use packed tiles.

    Returns:
        True inside of single-batch mode, unless results must be repeatable.
    """
    return _single_batch.get() and not _repeatable.get()


def start_evaluation(array: mx.array) -> None:
    """Start to evaluate an array that will be needed, without waiting for it, where that is faster.

    Args:
        array: Any lazy array.
    """
    # With several batches in parallel, async_eval of one graph would block until the one before is nearly done.
    if EVALUATES_EARLY and _single_batch.get():
        mx.async_eval(array)
