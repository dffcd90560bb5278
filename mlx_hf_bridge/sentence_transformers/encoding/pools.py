"""Worker processes, each with a copy of the model, that share out a call's texts.

Workers are spawned, never forked: a child forked after MLX was used would hang.
"""

import logging
import math
import multiprocessing
import pickle
import queue
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm.auto import tqdm

from mlx_hf_bridge.errors import BridgeError, InputError
from mlx_hf_bridge.inference.batching import Results
from mlx_hf_bridge.runtime.device import BACKEND

logger = logging.getLogger(__name__)

Pool = dict[str, Any]

# sentence-transformers' numbers: workers without a GPU, chunks that a worker gets, the most texts of one.
_CPU_WORKERS = 4
_CHUNKS_A_WORKER = 10
_MOST_IN_A_CHUNK = 5000
_POLL_SECONDS = 1.0


class WorkerError(BridgeError, RuntimeError):
    """A worker process of a pool ended before its work was done."""


def start_pool(compute: Callable[..., Results], devices: Sequence[str] | None) -> Pool:
    """A process for every device; without a list 4 on a CPU, and 1 on a GPU, which more could only share."""
    count = len(devices) if devices else (_CPU_WORKERS if BACKEND == "cpu" else 1)
    logger.info("starting %d worker processes", count)
    context = multiprocessing.get_context("spawn")
    pool: Pool = {"input": context.Queue(), "output": context.Queue(), "processes": []}
    for _ in range(count):
        process = context.Process(target=_serve, args=(compute, pool["input"], pool["output"]), daemon=True)
        process.start()
        pool["processes"].append(process)
    return pool


def stop_pool(pool: Pool) -> None:
    """End the processes of start_pool and let go of their queues."""
    for process in pool["processes"]:
        process.terminate()
    for process in pool["processes"]:
        process.join()
        process.close()
    pool["input"].cancel_join_thread()
    pool["input"].close()
    pool["output"].close()


def check_chunk_size(chunk_size: int | None) -> int | None:
    """A whole number of 1 or more, or None; InputError for anything else."""
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise InputError(f"chunk_size={chunk_size!r}, expected a whole number of 1 or more, or None.")
    return chunk_size


def encode_in_pool(
    pool: Pool, inputs: Sequence[Any], arguments: Mapping[str, Any], chunk_size: int | None, show_progress: bool
) -> list[Any]:
    """The inputs in chunks to the workers -> their rows in order; raises what a worker raised."""
    if not inputs:
        return []
    _check_sendable(arguments)
    usual = math.ceil(len(inputs) / len(pool["processes"]) / _CHUNKS_A_WORKER)
    size = check_chunk_size(chunk_size) or min(usual, _MOST_IN_A_CHUNK)
    starts = range(0, len(inputs), size)
    for number, start in enumerate(starts):
        pool["input"].put((number, list(inputs[start : start + size]), dict(arguments)))
    results: list[Any] = [None] * len(starts)
    for _ in tqdm(starts, desc="Chunks", disable=None if show_progress else True):
        number, result = _next_result(pool)
        results[number] = result
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [row for result in results for row in result]


def _check_sendable(arguments: Mapping[str, Any]) -> None:
    """InputError for what cannot go to another process; a queue would drop it, and the caller wait for ever."""
    try:
        pickle.dumps(dict(arguments))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"an argument cannot be sent to worker processes ({error}). Give functions that are defined at the top of "
            "a module, or leave pool and the list of devices out."
        ) from error


def _next_result(pool: Pool) -> tuple[int, Any]:
    while True:
        try:
            number, result = pool["output"].get(timeout=_POLL_SECONDS)
            return int(number), result
        except queue.Empty:
            dead = [process for process in pool["processes"] if not process.is_alive()]
        if dead:
            codes = ", ".join(f"{process.pid} (exit code {process.exitcode})" for process in dead)
            raise WorkerError(
                f"{len(dead)} worker processes died: {codes}. Stop the pool and start a new one; a script that starts "
                'one needs its code under if __name__ == "__main__".'
            )


def _serve(compute: Callable[..., Results], inputs: Any, outputs: Any) -> None:
    """A worker's life: chunks in, rows or an error out, until it is ended."""
    while True:
        number, texts, arguments = inputs.get()
        try:
            result: Any = compute(texts, **arguments)
        except Exception as error:  # handed to the caller, whatever it is
            result = _sendable(error)
        outputs.put((number, result))


def _sendable(error: Exception) -> Exception:
    """The error, or one that says the same where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # pickling runs code of the error's own class, which may raise anything
        return WorkerError(f"{type(error).__name__}: {error}")
    return error
