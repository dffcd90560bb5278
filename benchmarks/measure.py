"""Two or more things timed in turn (A B A B ...), so that what else the machine does falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each run, and those of the reference in the same rounds."""

    name: str
    seconds: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratios(self) -> list[float]:
        """How many times as fast as the reference, round by round."""
        return [theirs / ours for ours, theirs in zip(self.seconds, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)


def in_turn(works: Mapping[str, Callable[[], object]], rounds: int, reference: str) -> list[Timing]:
    """Each work once a round, after one run of each that is not counted."""
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return [Timing(name, tuple(taken), tuple(seconds[reference])) for name, taken in seconds.items()]


def percentile(values: list[float], percent: float) -> float:
    """By the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
