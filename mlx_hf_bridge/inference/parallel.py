"""Parallel streams: several independent batches are computed at once, and the next ones prepared meanwhile.

On CPUs, MLX runs everything except matmuls on one thread per stream, so it takes one stream per core to use all cores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.layers.linear import dequantizing_once
from mlx_hf_bridge.layers.single_batch import single_batch_mode
from mlx_hf_bridge.runtime.device import STREAMS, one_thread_per_stream, streams
from mlx_hf_bridge.runtime.executor import arrays_in, refuse_forked_child, run

# Rounds in flight: while one is computed, Python prepares the next one.
_AHEAD = 2


class _Round:
    """Results that are still being computed. Not a dataclass, so that `run` does not evaluate the arrays in it."""

    def __init__(self, results: list[Any]) -> None:
        self.results = results


def run_in_parallel(jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Run functions that build lazy arrays, STREAMS of them at a time.

    Args:
        jobs: Functions without arguments; they are requested as needed. What they raise is raised here.

    Yields:
        The results of the functions, in their order, with every array evaluated.
    """
    # Here, because the first lock would be waited for in vain.
    refuse_forked_child()
    waiting = iter(jobs)
    chosen = list(islice(waiting, STREAMS))
    single = len(chosen) < 2
    in_flight: deque[_Round] = deque()
    # A single batch gets all threads of the BLAS.
    with nullcontext() if single else one_thread_per_stream():
        while chosen:
            in_flight.append(run(partial(_start, chosen)))
            # The oldest round is awaited only after a newer one has been started.
            if len(in_flight) == _AHEAD:
                # `run` evaluates what the function returns, in the thread that the arrays belong to.
                yield from run(partial(_finish, in_flight.popleft()))
            chosen = list(islice(waiting, STREAMS))
        while in_flight:
            yield from run(partial(_finish, in_flight.popleft()))


def _start(jobs: list[Callable[[], Any]]) -> _Round:
    """Start a round: build all graphs, then evaluate them together.

    MLX would begin a second array only when the first one is nearly done, if they were evaluated one by one.
    """
    results = []
    # Early evaluation of a single batch would keep other batches from starting while it waits for the device.
    with dequantizing_once(), single_batch_mode() if len(jobs) == 1 else nullcontext():
        for stream, job in zip(streams(), jobs, strict=False):
            with mx.stream(stream):
                results.append(job())
    # All graphs in one call: a second async_eval would block until the first graph is nearly done.
    mx.async_eval(*arrays_in(results))
    return _Round(results)


def _finish(round: _Round) -> list[Any]:
    return round.results
