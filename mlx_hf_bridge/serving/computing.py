"""The compute thread: takes turns from the queue, runs them through the model, and gives each request its result."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from mlx_hf_bridge.errors import NonFiniteError, QueueFullError, ShuttingDownError
from mlx_hf_bridge.inference.batching import Results, run_batches, stream_blocks
from mlx_hf_bridge.inference.finite import check_finite
from mlx_hf_bridge.inference.tokenizer import Tokens
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
            self._compute_lane(parts)

    def _next_turn(self) -> list[Part]:
        """Return the texts to compute next, as soon as there are any; none if the computer is closed."""
        with self._changed:
            while not (parts := self._take()) and not self._draining:
                self._changed.wait()
            return parts

    def _take(self, lane: Hashable | None = None) -> list[Part]:
        return self._queue.take(self._limits.turn_tokens(len(self._queue)), lane)

    def _compute_lane(self, parts: list[Part]) -> None:
        """Compute a turn, and further ones of its lane until nothing waits or another lane has its turn.

        The next turn is taken while the last batches of the one before are computed, so that no stream waits.
        """
        turns: deque[_Turn] = deque()
        taken: list[Part] = []

        def blocks() -> Iterator[tuple[list[tuple[Request, int]], list[Tokens]]]:
            following = parts
            while following:
                kept = [part for part in following if not part.request.cancelled]
                taken.extend(kept)
                if kept:
                    turns.append(_Turn(kept))
                    yield [key for part in kept for key in part.keys], [one for part in kept for one in part.tokens]
                with self._changed:
                    following = self._take(parts[0].request.lane)

        pipeline, mark = parts[0].request.pipeline, time.monotonic()
        try:
            for keys, rows in stream_blocks(blocks(), pipeline, _BATCH_SIZE):
                _keep_all(keys, rows, self._keep)
                turns[0].texts_left -= sum(map(len, keys))
                if not turns[0].texts_left:
                    now = time.monotonic()
                    self._finish_turn(turns.popleft(), now - mark)
                    mark = now
        # Whatever it is, it must neither end the thread nor reach the requests of others.
        except Exception as error:
            logger.debug("a turn failed, and its requests are computed separately", exc_info=error)
            self._compute_separately([part for part in taken if part.is_missing], error)

    def _finish_turn(self, turn: "_Turn", seconds: float) -> None:
        # A moving average, so that one odd turn does not decide.
        self._speed += 0.2 * (turn.tokens / max(seconds, 1e-6) - self._speed)
        self._observe(turn.model, turn.texts, turn.tokens, seconds)

    def _compute_separately(self, parts: Sequence[Part], error: Exception) -> None:
        """Compute the texts of a turn that failed: halves of it are tried, until the request that fails is by itself.

        Args:
            parts: Texts of requests; those of cancelled requests are left out.
            error: With which they failed together.
        """
        parts = [part for part in parts if not part.request.cancelled]
        if len(parts) == 1:
            self._fail(parts[0].request, error)
        for half in (parts[: len(parts) // 2], parts[len(parts) // 2 :]) if len(parts) > 1 else ():
            keys, tokens = [key for part in half for key in part.keys], [one for part in half for one in part.tokens]
            try:
                rows = run_batches(tokens, half[0].request.pipeline, _BATCH_SIZE, show_progress=False)
            except Exception as further:
                self._compute_separately(half, further)
            else:
                _keep_all([[key] for key in keys], rows, self._keep)

    def _keep(self, request: Request, index: int, row: Any) -> None:
        """Keep the result of a text, and answer its request if it is the last one."""
        if request.cancelled or request.results[index] is not None:
            return
        request.results[index] = row
        request.missing -= 1
        if request.missing:
            return
        try:
            check_finite(request.results, request.model)
        except NonFiniteError as error:
            self._fail(request, error)
        else:
            _answer(request, request.results, None)

    def _fail(self, request: Request, error: Exception) -> None:
        if not isinstance(error, NonFiniteError):
            logger.debug("a request failed", exc_info=error)
        self.cancel(request)
        _answer(request, None, error)


class _Turn:
    """Texts that are computed together, and how many of them have no result yet."""

    def __init__(self, parts: Sequence[Part]) -> None:
        now = time.monotonic()
        for part in parts:
            if part.request.started_at is None:
                part.request.started_at = now
        self.model = parts[0].request.model
        self.texts = self.texts_left = sum(part.stop - part.start for part in parts)
        self.tokens = sum(cost(one) for part in parts for one in part.tokens)


def _keep_all(
    keys: Sequence[Sequence[tuple[Request, int]]],
    rows: Results | Sequence[Any],
    keep: Callable[[Request, int, Any], None],
) -> None:
    for owners, row in zip(keys, rows, strict=True):
        for request, index in owners:
            keep(request, index, row)


def _answer(request: Request, result: object, error: BaseException | None) -> None:
    # The loop of a client that has gone may be closed.
    with suppress(RuntimeError):
        request.done(result, error)
