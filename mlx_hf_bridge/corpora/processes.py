"""Units of a job in this process, or in worker processes of this machine."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field

from mlx_hf_bridge.corpora.compute import Report, compute_unit
from mlx_hf_bridge.corpora.inputs import Unit
from mlx_hf_bridge.corpora.job import Job, done
from mlx_hf_bridge.corpora.tasks import Computation
from mlx_hf_bridge.runtime.environment import STREAMS_VARIABLE
from mlx_hf_bridge.sentence_transformers.encoding.pools import WorkerError, end_with_parent

# How often workers may die before a single unit is finished; a text that kills its process would do so for ever.
_ATTEMPTS = 3
# The variables that say how many threads a process computes with.
_THREAD_VARIABLES = (STREAMS_VARIABLE, "OPENBLAS_NUM_THREADS")


@dataclass
class Worker:
    """A process's part in a job: its model, loaded with the first unit.

    Args:
        job: The job.
    """

    job: Job
    _computation: Computation | None = field(default=None, repr=False)

    def load(self) -> Computation:
        """Load the model, and compare it with that of the other processes.

        Returns:
            The computation.

        Raises:
            InputError: If it is another model.
        """
        if self._computation is None:
            computation = self.job.task.load()
            self.job.check_probe(computation.probe)
            self._computation = computation
        return self._computation

    def compute(self, unit: Unit) -> Report:
        """Compute a unit.

        Args:
            unit: The unit.

        Returns:
            What became of its rows.
        """
        return compute_unit(self.job, unit, self.load())


def compute_units(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Report]:
    """Compute units.

    Args:
        job: The job.
        units: The units.
        workers: The number of processes; with 1, units are computed in this one.

    Yields:
        A report for each unit, in the order in which they are finished.

    Raises:
        WorkerError: If worker processes keep dying.
    """
    if workers == 1:
        worker = Worker(job)
        yield from map(worker.compute, units)
        return
    left, attempts = {unit.number: unit for unit in units}, 0
    while left:
        try:
            for report in _compute_in_pool(job, list(left.values()), min(workers, len(left))):
                del left[report.unit]
                attempts = 0
                yield report
        except BrokenProcessPool as error:
            # The pool is of no use after the death of one worker. What the others had finished is written.
            finished = done(job)
            left = {number: unit for number, unit in left.items() if unit.output not in finished}
            attempts += 1
            if attempts == _ATTEMPTS:
                raise WorkerError(
                    f"worker processes died {attempts} times, the last time while units "
                    f"{sorted(left)[:workers]} and others were computed. Give them more memory, or take fewer workers; "
                    'a script that starts workers needs its code under if __name__ == "__main__".'
                ) from error


def _compute_in_pool(job: Job, units: Sequence[Unit], workers: int) -> Iterator[Report]:
    # A forked child of a process that has used MLX would hang.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(job,))
    try:
        waiting = iter(units)
        with _sharing_cores(workers):
            # A few more than there are workers, so that none waits; the rest need not be in memory.
            running = {executor.submit(_compute, unit) for _, unit in zip(range(2 * workers), waiting, strict=False)}
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
                for unit in waiting:
                    running.add(executor.submit(_compute, unit))
                    break
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


@contextmanager
def _sharing_cores(workers: int) -> Iterator[None]:
    """Let the processes that are started inside the `with` block have an equal share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = {name: str(max(1, cores // workers)) for name in _THREAD_VARIABLES if name not in os.environ}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]


_workers: dict[str, Worker] = {}


def worker_of(job: Job) -> Worker:
    """Return this process's worker for a job; the same one for each unit, so that the model is loaded once.

    Args:
        job: The job.

    Returns:
        The worker.
    """
    key = f"{job.output.folder} {job.digest}"
    # One model in memory at a time: processes of an engine are kept for its next jobs.
    if key not in _workers:
        _workers.clear()
        _workers[key] = Worker(job)
    return _workers[key]


_worker: Worker | None = None


def _start(job: Job) -> None:
    """Run in a worker process before its first unit."""
    global _worker
    # Ctrl-C in a terminal reaches every process; the one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    _worker = Worker(job)


def _compute(unit: Unit) -> Report:
    assert _worker is not None
    return _worker.compute(unit)
