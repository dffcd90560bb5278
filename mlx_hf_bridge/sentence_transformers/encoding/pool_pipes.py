"""The pipe in which worker processes send their results, which neither Ctrl-C nor a killed worker can block."""

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

# How long the thread that reads may take to see that the last worker has ended.
_SECONDS_TO_END = 1.0


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back inside the `with` block, and for good in the processes that are started there.

    Ctrl-C in a terminal reaches every process, and would end workers that still import modules.

    Yields:
        Nothing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Sender:
    """The end of the results' pipe that the workers share.

    Attributes:
        writer: A connection.
        lock: A lock between processes.
    """

    writer: Any
    lock: Any

    def put(self, result: Any) -> None:
        """Send a result, when no other worker is sending one.

        Args:
            result: What can be pickled.
        """
        with self.lock:
            self.writer.send(result)


class Received:
    """The results of all workers.

    A thread reads them: Ctrl-C in the main thread could leave half of a result in the pipe, and a worker that is killed
    while it writes one would keep the main thread waiting for the rest.

    Args:
        reader: A connection.
        sender: Its other end.
    """

    def __init__(self, reader: Any, sender: Sender) -> None:
        self._reader, self._closed = reader, False
        # Workers that still start find its lock by a name that exists as long as the lock does here.
        self._sender = sender
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._receive, name="mlx-hf-bridge-pool", daemon=True)
        self._thread.start()

    def get(self, timeout: float) -> Any:
        """Return the next result.

        Args:
            timeout: How many seconds to wait for it.

        Returns:
            What a worker sent.

        Raises:
            queue.Empty: If none comes.
        """
        return self._results.get(timeout=timeout)

    def close(self) -> None:
        """Close the pipe, after the workers have ended."""
        self._closed = True
        # It ends when the last worker has ended.
        self._thread.join(_SECONDS_TO_END)
        self._reader.close()

    def _receive(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._results.put(self._reader.recv())
