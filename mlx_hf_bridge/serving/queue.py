"""The queue: requests of all clients wait in lanes, and are taken from them a turn at a time.

A lane holds the requests whose texts may share a batch: those for one model with equal options. Lanes take turns.
Within a turn every waiting request of the lane first gets an equal share of the tokens, in order of arrival, and what
is left goes to the oldest. So requests are answered in the order in which they arrive, except that a large one cannot
keep small ones waiting for more than its share of each turn.
"""

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.inference.batching import BatchPipeline
from mlx_hf_bridge.inference.tokenizer import Tokens


@dataclass(eq=False)
class Request:
    """The texts of one request, in the queue or being computed.

    Args:
        lane: What requests have in common whose texts may share a batch.
        model: The name of the model, for messages and metrics.
        tokens: The tokens of its texts.
        pipeline: What is computed of them; of all requests of a lane the same.
        done: Is given one result for each text, or the error; called once, in the thread that computes.

    Attributes:
        next: The first text that has not been taken yet.
        results: The result of each text, None until it is computed.
        missing: How many results there are not yet.
        cancelled: Whether nobody waits for the result.
        queued_at: When it was put into the queue, by time.monotonic.
        started_at: When its first text was taken; None before.
    """

    lane: Hashable
    model: str
    tokens: Sequence[Tokens]
    pipeline: BatchPipeline
    done: Callable[[Any, BaseException | None], object]
    next: int = 0
    results: list[Any] = field(init=False)
    missing: int = field(init=False)
    cancelled: bool = False
    queued_at: float = field(default_factory=time.monotonic)
    started_at: float | None = None

    def __post_init__(self) -> None:
        self.missing = len(self.tokens)
        self.results = [None] * self.missing

    @property
    def remaining(self) -> int:
        """The number of texts that have not been taken yet."""
        return len(self.tokens) - self.next

    @property
    def remaining_tokens(self) -> int:
        """The number of tokens that have not been taken yet."""
        return sum(cost(one) for one in self.tokens[self.next :])


@dataclass(frozen=True)
class Part:
    """Consecutive texts of one request, from `start` to before `stop`."""

    request: Request
    start: int
    stop: int

    @property
    def tokens(self) -> Sequence[Tokens]:
        """The tokens of these texts."""
        return self.request.tokens[self.start : self.stop]

    @property
    def keys(self) -> list[tuple[Request, int]]:
        """The request and the index of each of these texts."""
        return [(self.request, index) for index in range(self.start, self.stop)]

    @property
    def is_missing(self) -> bool:
        """Whether one of these texts has no result yet."""
        return any(one is None for one in self.request.results[self.start : self.stop])


def cost(tokens: Tokens) -> int:
    """Return what one text counts against a budget: its tokens, and at least 1."""
    return max(1, len(tokens))


class WorkQueue:
    """Requests by lane. Not safe to use from several threads: its owner holds a lock.

    Attributes:
        tokens: How many tokens wait.
    """

    def __init__(self) -> None:
        self._lanes: dict[Hashable, deque[Request]] = {}
        # Lanes in the order in which they take turns; each is in it once while it has requests.
        self._turns: deque[Hashable] = deque()
        self.tokens = 0

    def __len__(self) -> int:
        """Return how many requests have texts that wait."""
        return sum(len(waiting) for waiting in self._lanes.values())

    def put(self, request: Request) -> None:
        """Add a request behind those that wait."""
        if request.lane not in self._lanes:
            self._lanes[request.lane] = deque()
            self._turns.append(request.lane)
        self._lanes[request.lane].append(request)
        self.tokens += request.remaining_tokens

    def remove(self, request: Request) -> None:
        """Remove what still waits of a request; does nothing if all of it was taken."""
        waiting = self._lanes.get(request.lane)
        if waiting and request in waiting:
            waiting.remove(request)
            self.tokens -= request.remaining_tokens
            self._drop_if_empty(request.lane)

    def take(self, budget: int, lane: Hashable | None = None) -> list[Part]:
        """Take the texts of the next turn.

        Args:
            budget: The most tokens; a single text may have more.
            lane: The only lane to take from. Default: None, any.

        Returns:
            Texts of requests of one lane, in order of arrival; an empty list if nothing waits, or if the next turn is
            that of another lane.
        """
        if not self._turns or lane not in (None, self._turns[0]):
            return []
        lane = self._turns[0]
        self._turns.rotate(-1)
        waiting = self._lanes[lane]
        share, left = max(1, budget // len(waiting)), budget
        starts = {id(request): request.next for request in waiting}
        chosen: list[Request] = []
        for request in waiting:
            if left <= 0:
                break
            # At least one text where it fits, however small the share is.
            taken = _take(request, share, left, force=not chosen)
            left -= taken
            if taken:
                chosen.append(request)
        for request in chosen:
            left -= _take(request, left, left, force=False)
        self.tokens -= budget - left
        self._lanes[lane] = deque(request for request in waiting if request.remaining)
        self._drop_if_empty(lane)
        return [Part(request, starts[id(request)], request.next) for request in chosen]

    def _drop_if_empty(self, lane: Hashable) -> None:
        if not self._lanes[lane]:
            del self._lanes[lane]
            self._turns.remove(lane)


def _take(request: Request, share: int, most: int, force: bool) -> int:
    """Move a request's position past the texts that fit into a share, or one that fits into `most`; return its tokens.

    With `force` the first text is taken whatever its length is.
    """
    taken = 0
    while request.remaining:
        size = cost(request.tokens[request.next])
        fits = taken + size <= min(share, most) or (taken == 0 and (force or size <= most))
        if not fits:
            break
        taken += size
        request.next += 1
    return taken
