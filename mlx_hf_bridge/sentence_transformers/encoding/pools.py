"""Worker processes, each with a copy of the model, that share the texts of a call.

Workers are spawned, never forked: a child that is forked after MLX was used would hang.
"""

import itertools
import logging
import math
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlx_hf_bridge.errors import BridgeError, InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.layers.single_batch import repeatable_results
from mlx_hf_bridge.runtime.device import BACKEND
from mlx_hf_bridge.runtime.progress import ProgressBar
from mlx_hf_bridge.sentence_transformers.encoding.inputs import check_optional_count
from mlx_hf_bridge.sentence_transformers.encoding.pool_pipes import Received, Sender, without_interrupts

logger = logging.getLogger(__name__)

Pool = dict[str, Any]

# sentence-transformers' own numbers: workers without a GPU, chunks for each worker, the most texts in a chunk.
_CPU_WORKERS = 4
_CHUNKS_PER_WORKER = 10
_MAX_CHUNK_SIZE = 5000
# How long to wait for a result before checking whether a worker died.
_POLL_SECONDS = 1.0
_calls = itertools.count()


@dataclass(frozen=True)
class Workers:
    """Where a call is computed, in encode's arguments: here, in the processes of a pool, or in one for each device."""

    device: Any = None
    pool: Pool | None = None
    chunk_size: int | None = None
    show_progress_bar: bool | None = None


class WorkerError(BridgeError, RuntimeError):
    """A worker process of a pool died before it returned its results."""


def start_pool(compute: Callable[..., Results], devices: Sequence[str] | None) -> Pool:
    """Start worker processes.

    Args:
        compute: A picklable function of a list of texts and keyword arguments, which every worker runs.
        devices: One entry for each worker. None starts 4 on a CPU and 1 on a GPU, which more workers could only share.

    Returns:
        The queues "input" and "output", the list "processes", and the "lock" of a call.
    """
    count = len(devices) if devices else (_CPU_WORKERS if BACKEND == "cpu" else 1)
    logger.info("starting %d worker processes", count)
    # MLX cannot be used in a forked child of a process that has used it.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    sender = Sender(writer, context.Lock())
    pool: Pool = {"input": context.Queue(), "output": Received(reader, sender), "processes": []}
    pool["lock"] = threading.Lock()
    # Starts the thread of the queue, which nothing can interrupt any more.
    pool["input"].put(None)
    arguments = (compute, pool["input"], sender)
    for _ in range(count):
        # daemon: a worker ends with the process that started it, even if the pool is never stopped.
        process = context.Process(target=_serve_process, args=arguments, daemon=True)
        with without_interrupts():
            process.start()
        pool["processes"].append(process)
    # Only workers have it open now, so that the pipe ends with the last of them.
    writer.close()
    return pool


def stop_pool(pool: Pool) -> None:
    """Stop the processes of a pool and close its queues.

    Args:
        pool: What `start_pool` returned.
    """
    for process in pool["processes"]:
        process.terminate()
    for process in pool["processes"]:
        process.join()
        process.close()
    # Chunks that no worker took would otherwise keep this process from ending.
    pool["input"].cancel_join_thread()
    pool["input"].close()
    pool["output"].close()


def encode_in_pool(
    pool: Pool, inputs: Sequence[Any], arguments: Mapping[str, Any], chunk_size: int | None, show_progress: bool
) -> list[Any]:
    """Compute inputs in a pool.

    Args:
        pool: What `start_pool` returned.
        inputs: Texts and pairs of texts.
        arguments: Keyword arguments for every call in a worker; they must be picklable.
        chunk_size: How many inputs a worker gets at a time. None: a tenth of a worker's share, at most 5000.
        show_progress: Whether to show a progress bar of chunks.

    Returns:
        The result of every input, in the order of the inputs. An error of a worker is raised here.
    """
    if not inputs:
        return []
    _check_sendable(arguments)
    _check_running(pool)
    usual = math.ceil(len(inputs) / len(pool["processes"]) / _CHUNKS_PER_WORKER)
    size = check_optional_count("chunk_size", chunk_size) or min(usual, _MAX_CHUNK_SIZE)
    starts = range(0, len(inputs), size)
    # One call at a time: calls of two threads would take each other's results.
    with pool["lock"]:
        results = _collect(pool, [list(inputs[start : start + size]) for start in starts], arguments, show_progress)
    for start, result in zip(starts, results, strict=True):
        # After all chunks have been collected, so that the workers are free for the next call.
        if isinstance(result, Exception):
            _locate_error(result, start, min(start + size, len(inputs)), len(inputs))
            raise result
    return [row for result in results for row in result]


def _check_running(pool: Pool) -> None:
    """Raise InputError for a pool that was stopped, or anything else than a pool."""
    try:
        stopped = pool["input"]._closed or pool["output"]._closed
        processes = pool["processes"]
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"pool is a {type(pool).__name__}, expected what start_multi_process_pool returned."
        ) from error
    if stopped or not processes:
        raise InputError("the pool was stopped. Start another one with start_multi_process_pool.")


def _collect(pool: Pool, chunks: list[list[Any]], arguments: Mapping[str, Any], show_progress: bool) -> list[Any]:
    """Return the result of every chunk, an Exception for one that failed."""
    # A call that was interrupted leaves jobs and results in the queues, which must not become this call's.
    call = next(_calls)
    results: list[Any] = [None] * len(chunks)
    try:
        for number, chunk in enumerate(chunks):
            pool["input"].put((call, number, chunk, dict(arguments)))
        for _ in ProgressBar(chunks, desc="Chunks", disable=None if show_progress else True):
            number, result = _next_result(pool, call)
            # Chunks come back in any order.
            results[number] = result
    except BaseException:
        # KeyboardInterrupt too: workers need not compute what nobody waits for.
        _discard_jobs(pool)
        raise
    return results


def _discard_jobs(pool: Pool) -> None:
    """Take what no worker has taken yet, in a thread: another Ctrl-C could leave half of it in the queue."""

    def discard() -> None:
        with suppress(queue.Empty):
            while True:
                pool["input"].get_nowait()

    thread = threading.Thread(target=discard)
    thread.start()
    # To its end, or it would take jobs of the next call.
    while thread.is_alive():
        with suppress(KeyboardInterrupt):
            thread.join()


def _check_sendable(arguments: Mapping[str, Any]) -> None:
    """Raise InputError for what cannot be pickled; a queue would drop it, and the caller would wait forever."""
    try:
        pickle.dumps(dict(arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"an argument cannot be sent to worker processes ({error}). Give functions that are defined at the top of "
            "a module, or leave pool and the list of devices out."
        ) from error


def _locate_error(error: Exception, start: int, end: int, count: int) -> None:
    """Let the error of a worker say which inputs it is about, unless these are all."""
    if isinstance(error, BridgeError) and (start > 0 or end < count):
        error.args = (f"{error} (texts {start} to {end - 1} of this call, numbered from 0)",)


def _next_result(pool: Pool, call: int) -> tuple[int, Any]:
    while True:
        try:
            of, number, result = pool["output"].get(timeout=_POLL_SECONDS)
            if of == call:
                return int(number), result
            continue
        except queue.Empty:
            dead = [process for process in pool["processes"] if not process.is_alive()]
        if dead:
            codes = ", ".join(f"{process.pid} (exit code {process.exitcode})" for process in dead)
            raise WorkerError(
                f"{len(dead)} worker processes died: {codes}. Stop the pool and start a new one; a script that starts "
                'one needs its code under if __name__ == "__main__".'
            )


def _serve_process(compute: Callable[..., Results], inputs: Any, outputs: Any) -> None:
    """Run in a worker process."""
    # Ctrl-C in a terminal reaches every process; the caller's call is interrupted, and the pool can be used again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    _serve(compute, inputs, outputs)


def end_with_parent() -> None:
    """End this worker when the process that started it is gone; a killed one cannot stop its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _serve(compute: Callable[..., Results], inputs: Any, outputs: Any) -> None:
    """Take chunks, and return their results or an error, until the process is stopped."""
    while True:
        job = inputs.get()
        if job is None:
            continue
        call, number, texts, arguments = job
        try:
            # Whichever worker takes a chunk, and whatever it took before.
            with repeatable_results():
                result: Any = compute(texts, **arguments)
        except Exception as error:  # the caller raises it
            result = _sendable(error)
        outputs.put((call, number, result))


def _sendable(error: Exception) -> Exception:
    """Return the error, or a WorkerError with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling runs code of the error's own class, which may raise anything
        return WorkerError(f"{type(error).__name__}: {error}")
    return error
