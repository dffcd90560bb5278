"""Independent pieces of work, several at a time: while results are waited for, the next ones are under way.

On CPUs, MLX runs all but matrix products on one thread a stream, so that one stream a core is what fills the cores.
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
from mlx_hf_bridge.runtime.executor import arrays_in, run

# Rounds under way: while one is computed, the next one is prepared.
_AHEAD = 2


class _Round:
    """Results that are still being computed; no dataclass, so that `run` does not wait for them."""

    def __init__(self, results: list[Any]) -> None:
        self.results = results


def run_in_parallel(works: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """The results of `works` in their order, every array in them evaluated (as `run` does). Raises what they raise."""
    waiting = iter(works)
    chosen = list(islice(waiting, STREAMS))
    alone = len(chosen) < 2
    under_way: deque[_Round] = deque()
    with nullcontext() if alone else one_thread_per_stream():
        while chosen:
            under_way.append(run(partial(_start, chosen)))
            if len(under_way) == _AHEAD:
                yield from run(partial(_finish, under_way.popleft()))
            chosen = list(islice(waiting, STREAMS))
        while under_way:
            yield from run(partial(_finish, under_way.popleft()))


def _start(works: list[Callable[[], Any]]) -> _Round:
    """All at once: MLX would begin a second array only when the first one is nearly done."""
    results = []
    # One that waited for the device to take more would keep the others from being begun.
    with dequantizing_once(), single_batch_mode() if len(works) == 1 else nullcontext():
        for stream, work in zip(streams(), works, strict=False):
            with mx.stream(stream):
                results.append(work())
    mx.async_eval(*arrays_in(results))
    return _Round(results)


def _finish(round: _Round) -> list[Any]:
    return round.results
