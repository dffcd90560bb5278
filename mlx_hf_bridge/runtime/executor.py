"""The only place where arrays are evaluated, safe to call from any thread.

MLX's streams belong to threads: a lazy array of one thread cannot be evaluated in another, two threads that evaluate
at the same time can crash Metal, and a process in which a thread that used MLX has ended may abort at exit. So one
function runs at a time: in the main thread if it is called there, otherwise in a daemon thread that lives as long as
the process.
"""

import atexit
import ctypes
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, TypeVar

import mlx.core as mx

from mlx_hf_bridge.errors import ForkedProcessError
from mlx_hf_bridge.runtime.device import KEPT_BYTES, synchronize

T = TypeVar("T")

# Reentrant, because work that runs here may call `run` again.
_lock = threading.RLock()
# Id of the process that has used MLX; a child forked from it cannot use it.
_process: int | None = None


@dataclass
class _Job:
    """A function that another thread waits for, with its result or error."""

    work: Callable[[], Any]
    # Whether the thread that waits may be left waiting when the process ends.
    daemon: bool
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: BaseException | None = None


# A process that ends waits this many seconds for what a daemon thread computes, first undisturbed. MLX aborts a process
# (exit code 134) whose threads still compute while it is torn down.
_SECONDS_UNDISTURBED, _SECONDS_AT_EXIT = 2.0, 60.0

# Tensors of one evaluation that may each fail.
_MOST_PENDING_ERRORS = 100_000

# How long a thread of a forked child may hold a lock that another one waits for.
_SECONDS_IN_CHILD = 5.0

_jobs: "queue.SimpleQueue[_Job]" = queue.SimpleQueue()
_worker: threading.Thread | None = None
# Set when the process ends. What daemon threads ask for from then on is never computed.
_ending = threading.Event()


def run(work: Callable[[], T]) -> T:
    """Call a function where MLX may run, and evaluate its result.

    Args:
        work: Function without arguments. What it raises is raised here.

    Returns:
        Its result, with every array evaluated, also those in lists, tuples, dicts and dataclasses.

    Raises:
        ForkedProcessError: If this is a child forked from a process that had used MLX.
    """
    global _process
    refuse_forked_child()
    _process = os.getpid()
    # A lazy array cannot leave its thread, and a process whose MLX thread has ended may abort at exit: hence the main
    # thread, or one worker that never ends.
    if threading.current_thread() in (threading.main_thread(), _worker):
        return _evaluate(work)
    # With the caller's context variables, which say how to compute.
    job = _Job(partial(copy_context().run, work), threading.current_thread().daemon)
    _start_worker()
    _jobs.put(job)
    job.done.wait()
    if job.error is not None:
        raise job.error
    result: T = job.result
    return result


def refuse_forked_child() -> None:
    """Check that this process has not been forked from one that had used MLX.

    Raises:
        ForkedProcessError: If it has.
    """
    if _is_forked_child():
        raise ForkedProcessError(
            "MLX was used before this process was forked, and would hang here. Start workers by spawn: "
            "multiprocessing.get_context('spawn')."
        )


def _is_forked_child() -> bool:
    return _process is not None and _process != os.getpid()


@contextmanager
def hold(lock: Any) -> Iterator[None]:
    """Hold a lock inside the `with` block.

    Args:
        lock: A lock of threading.

    Yields:
        Nothing.

    Raises:
        ForkedProcessError: In a forked child, if a thread of the parent held the lock, which nobody ever opens there.
    """
    if not lock.acquire(timeout=_SECONDS_IN_CHILD if _is_forked_child() else -1):
        refuse_forked_child()
    try:
        yield
    finally:
        lock.release()


def _evaluate(work: Callable[[], T]) -> T:
    with _lock:
        try:
            result = work()
            # Evaluated inside the lock and in this thread; what leaves is data.
            mx.eval(*arrays_in(result))
        except RuntimeError:
            _drop_pending_errors()
            raise
        if mx.get_cache_memory() > KEPT_BYTES:
            mx.clear_cache()
        return result


def _drop_pending_errors() -> None:
    """Wait for what else MLX has begun, and drop its errors.

    Where several reads of a file fail, MLX raises one error, and the next in a later evaluation: that of another model.
    """
    for _ in range(_MOST_PENDING_ERRORS):
        with suppress(RuntimeError):
            # Files are read on the CPU, whatever the device is.
            mx.synchronize(mx.default_stream(mx.cpu))
            synchronize()
            break


def arrays_in(result: Any) -> Iterator[mx.array]:
    """Yield every array in a result: arrays themselves, and those in lists, tuples, dicts and dataclasses."""
    if isinstance(result, mx.array):
        yield result
    elif isinstance(result, Mapping):
        yield from arrays_in(list(result.values()))
    elif isinstance(result, (list, tuple)):
        for item in result:
            yield from arrays_in(item)
    elif is_dataclass(result) and not isinstance(result, type):
        yield from arrays_in([getattr(result, item.name) for item in fields(result)])


def _start_worker() -> None:
    global _worker
    with _lock:
        if _worker is None:
            # daemon, so that a program can exit while the worker waits for a job.
            _worker = threading.Thread(target=_serve, name="mlx-hf-bridge", daemon=True)
            _worker.start()


def _serve() -> None:
    while True:
        job = _jobs.get()
        if job.daemon and _ending.is_set():
            continue
        try:
            job.result = _evaluate(job.work)
        except BaseException as error:  # handed to the caller, whatever it is
            job.error = error
        finally:
            job.done.set()


def _stop_at_exit() -> None:
    """Let no further work of daemon threads begin, and wait for what has begun.

    Threads that a program starts in its own exit handlers are served all the same: it waits for them.
    """
    if _process != os.getpid():
        return
    _ending.set()
    # What an interrupted call left in flight.
    synchronize()
    if _worker is None:
        return
    stopping = _Job(synchronize, daemon=False)
    _jobs.put(stopping)
    if not stopping.done.wait(_SECONDS_UNDISTURBED):
        # Work that takes long, such as a conversion, consists of many evaluations: it is left between two of them.
        _raise_in(_worker, SystemExit)
    end = time.monotonic() + _SECONDS_AT_EXIT
    while not stopping.done.wait(_SECONDS_UNDISTURBED) and _worker.is_alive() and time.monotonic() < end:
        continue


def _raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Raise an exception in another thread, when it next runs Python code."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(error))


# Handlers run in reverse order: those of programs, which may still compute, before this one.
atexit.register(_stop_at_exit)
