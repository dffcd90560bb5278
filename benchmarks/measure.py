"""Time two or more functions alternately (A B A B ...), so that other load on the machine affects all equally."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The seconds of each round, and those of the reference in the same rounds."""

    name: str
    seconds: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def ratios(self) -> list[float]:
        """Return the speed relative to the reference, round by round."""
        return [reference / seconds for seconds, reference in zip(self.seconds, self.reference, strict=True)]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)


def interleave(calls: Mapping[str, Callable[[], object]], rounds: int, reference: str) -> list[Timing]:
    """Call each function once per round, after one warm-up call of each."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return [Timing(name, tuple(taken), tuple(seconds[reference])) for name, taken in seconds.items()]


def percentile(values: list[float], percent: float) -> float:
    """Return a percentile by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
