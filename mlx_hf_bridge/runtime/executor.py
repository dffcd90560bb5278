"""The one place where arrays are evaluated, safe from any thread.

MLX's streams belong to threads: a lazy array of one thread cannot be evaluated in another, two threads that evaluate
at once can crash Metal, and a process in which a thread that used MLX has ended may abort at exit. So work runs one
piece at a time, in the main thread when it is called there, else in a daemon thread that lives as long as the process.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import mlx.core as mx

from mlx_hf_bridge.errors import ForkedProcessError
from mlx_hf_bridge.runtime.device import KEPT_BYTES

T = TypeVar("T")

_turn = threading.RLock()
# The process that has used MLX; a child forked from it cannot.
_home: int | None = None


@dataclass
class _Job:
    work: Callable[[], Any]
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


_jobs: "queue.SimpleQueue[_Job]" = queue.SimpleQueue()
_owner: threading.Thread | None = None


def run(work: Callable[[], T]) -> T:
    """Call `work` where MLX may run -> its result, every array in it (also in lists, dicts and dataclasses) evaluated.

    Raises what `work` raises; ForkedProcessError in a child forked from a process that had used MLX.
    """
    global _home
    if _home is None:
        _home = os.getpid()
    elif _home != os.getpid():
        raise ForkedProcessError(
            "MLX was used before this process was forked, and would hang here. Start workers by spawn: "
            "multiprocessing.get_context('spawn')."
        )
    if threading.current_thread() in (threading.main_thread(), _owner):
        return _evaluated(work)
    job = _Job(work)
    _start_owner()
    _jobs.put(job)
    job.done.wait()
    if job.error is not None:
        raise job.error
    result: T = job.result
    return result


def _evaluated(work: Callable[[], T]) -> T:
    with _turn:
        result = work()
        mx.eval(*arrays_in(result))
        if mx.get_cache_memory() > KEPT_BYTES:
            mx.clear_cache()
        return result


def arrays_in(result: Any) -> Iterator[mx.array]:
    """Every array in lists, tuples, dicts and dataclasses."""
    if isinstance(result, mx.array):
        yield result
    elif isinstance(result, Mapping):
        yield from arrays_in(list(result.values()))
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from arrays_in(item)
    elif is_dataclass(result) and not isinstance(result, type):
        yield from arrays_in([getattr(result, item.name) for item in fields(result)])


def _start_owner() -> None:
    global _owner
    with _turn:
        if _owner is None:
            _owner = threading.Thread(target=_serve, name="mlx-hf-bridge", daemon=True)
            _owner.start()


def _serve() -> None:
    while True:
        job = _jobs.get()
        try:
            job.result = _evaluated(job.work)
        except BaseException as error:  # handed to the caller, whatever it is
            job.error = error
        finally:
            job.done.set()
