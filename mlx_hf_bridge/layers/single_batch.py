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


@contextmanager
def single_batch_mode() -> Iterator[None]:
    """Declare that one batch is served inside the `with` block, and that nothing else runs at the same time.

    Linear layers may then use their packed tiles (layers/small_batch.py), and layers are evaluated one by one.
    Calibration and training stay outside of it: tiles appear after some calls and round differently, so results would
    depend on what ran before.

    Yields:
        Nothing.
    """
    token = _single_batch.set(True)
    try:
        yield
    finally:
        _single_batch.reset(token)


def in_single_batch_mode() -> bool:
    """Return whether the code runs inside a `single_batch_mode()` block.

    Returns:
        True inside of it.
    """
    return _single_batch.get()


def start_evaluation(array: mx.array) -> None:
    """Start to evaluate an array that will be needed, without waiting for it, where that is faster.

    Args:
        array: Any lazy array.
    """
    # With several batches in parallel, async_eval of one graph would block until the one before is nearly done.
    if EVALUATES_EARLY and _single_batch.get():
        mx.async_eval(array)
