"""What was tried of one fault, and what survived."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Matmuls of one thread and of several add in another order.
_TOLERANCE = 2e-5


@dataclass
class Outcome:
    """The figures of one fault.

    Attributes:
        fault: What is done.
        tried: How often.
        failures: What went wrong, each with its case.
        seconds: How long it took.
    """

    fault: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def survived(self) -> int:
        """How many cases had no failure."""
        return self.tried - len(self.failures)

    def record(self, failure: str | None, case: str = "") -> None:
        """Count one case, and keep what went wrong; None for nothing."""
        self.tried += 1
        if failure is not None:
            self.failures.append(f"{case}: {failure}" if case else failure)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Add the time of the `with` block."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal but for the rounding of floats."""
    if isinstance(one, (np.ndarray, float)):
        left, right = np.asarray(one), np.asarray(other)
        return left.shape == right.shape and bool(np.allclose(left, right, _TOLERANCE, _TOLERANCE))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
