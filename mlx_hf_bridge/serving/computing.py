"""The compute thread: takes turns from the queue, runs them through the model, and gives each request its result."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mlx_hf_bridge.errors import NonFiniteError, QueueFullError, ShuttingDownError
from mlx_hf_bridge.inference.batching import run_batches
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.serving.limits import Limits
from mlx_hf_bridge.serving.queue import Part, Request, WorkQueue, cost

logger = logging.getLogger(__name__)

_BATCH_SIZE = 32
# What is assumed of a machine until it has computed something, to say when a full queue has room again.
_TOKENS_PER_SECOND = 5_000.0
_LONGEST_WAIT = 60


class Computer:
    """Computes requests of all clients in one thread, which alone calls models.

    Args:
        limits: What the queue takes, and how many tokens a turn has.
        observe: Is called after each turn with the model, the numbers of texts and tokens, and the seconds it took.

    Attributes:
        queue: The requests that wait; read it only with the lock of `state`.
    """

    def __init__(self, limits: Limits, observe: Callable[[str, int, int, float], None] = lambda *_: None) -> None:
        self._limits = limits
        self._observe = observe
        self._queue = WorkQueue()
        self._changed = threading.Condition()
        self._draining = False
        self._speed = _TOKENS_PER_SECOND
        # daemon, so that an engine that nobody closed does not keep a program from ending.
        self._thread = threading.Thread(target=self._run, name="mlx-hf-bridge-serving", daemon=True)
        self._started = False

    @property
    def waiting(self) -> tuple[int, int]:
        """How many requests and tokens wait."""
        with self._changed:
            return len(self._queue), self._queue.tokens

    def submit(self, request: Request) -> None:
        """Put a request into the queue.

        Raises:
            QueueFullError: If too many tokens wait.
            ShuttingDownError: If no new requests are taken.
        """
        size = sum(map(cost, request.tokens))
        with self._changed:
            if self._draining:
                raise ShuttingDownError("the server is shutting down. Send the request to another one, or later.")
            waiting = self._queue.tokens
            if waiting and waiting + size > self._limits.max_queued_tokens:
                raise QueueFullError(
                    f"{waiting} tokens wait to be computed, and this server lets at most "
                    f"{self._limits.max_queued_tokens} wait. Try again later.",
                    retry_after=self._retry_after(waiting),
                )
            if not self._started:
                self._started = True
                self._thread.start()
            self._queue.put(request)
            self._changed.notify()

    def retry_after(self) -> int:
        """Return in how many seconds what waits now will have been computed, from 1 to 60."""
        return self._retry_after(self.waiting[1])

    def _retry_after(self, tokens: int) -> int:
        return min(_LONGEST_WAIT, max(1, round(tokens / self._speed)))

    def cancel(self, request: Request) -> None:
        """Remove a request that nobody waits for; texts that are being computed are finished, and dropped."""
        with self._changed:
            request.cancelled = True
            self._queue.remove(request)

    def close(self) -> None:
        """Take no new requests, and return when those that wait have been computed."""
        with self._changed:
            self._draining = True
            self._changed.notify()
        if self._started and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while parts := self._next_turn():
            started = time.monotonic()
            for part in parts:
                if part.request.started_at is None:
                    part.request.started_at = started
            self._compute(parts)
            seconds, tokens = time.monotonic() - started, sum(cost(one) for part in parts for one in part.tokens)
            # A moving average, so that one odd turn does not decide.
            self._speed += 0.2 * (tokens / max(seconds, 1e-6) - self._speed)
            self._observe(parts[0].request.model, sum(part.stop - part.start for part in parts), tokens, seconds)

    def _next_turn(self) -> list[Part]:
        """Return the texts to compute next, as soon as there are any; none if the computer is closed."""
        with self._changed:
            while not (parts := self._queue.take(self._limits.max_batch_tokens)) and not self._draining:
                self._changed.wait()
            return parts

    def _compute(self, parts: Sequence[Part]) -> None:
        """Compute the texts of a turn. If that fails, halves are tried, until the request that fails is by itself."""
        parts = [part for part in parts if not part.request.cancelled]
        if not parts:
            return
        tokens = [one for part in parts for one in part.tokens]
        try:
            rows = run_batches(tokens, parts[0].request.pipeline, _BATCH_SIZE, show_progress=False)
        # Whatever it is, it must neither end the thread nor reach the requests of others.
        except Exception as error:
            if len(parts) > 1:
                self._compute(parts[: len(parts) // 2])
                self._compute(parts[len(parts) // 2 :])
            else:
                self._fail(parts[0].request, error)
            return
        start = 0
        for part in parts:
            count = part.stop - part.start
            self._keep(part, list(rows[start : start + count]))
            start += count

    def _keep(self, part: Part, rows: list[object]) -> None:
        """Keep the results of some texts of a request, and finish it if these were the last."""
        request = part.request
        try:
            check_finite(rows, request.model)
        except NonFiniteError as error:
            self._fail(request, error)
            return
        request.results += rows
        if len(request.results) == len(request.tokens):
            _answer(request, request.results, None)

    def _fail(self, request: Request, error: Exception) -> None:
        if not isinstance(error, NonFiniteError):
            logger.debug("a request failed", exc_info=error)
        self.cancel(request)
        _answer(request, None, error)


def _answer(request: Request, result: object, error: BaseException | None) -> None:
    # The loop of a client that has gone may be closed.
    with suppress(RuntimeError):
        request.done(result, error)
