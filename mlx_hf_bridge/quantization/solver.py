"""Bits and groups for every module within a number of bytes, of the least predicted error.

Each module has a convex front of choices (bytes, error). Starting from the smallest choices, the step that saves the
most error for a byte is taken while any fits. On convex fronts this greedy choice is optimal but for the last bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_hf_bridge.quantization.widths import BitWidth


@dataclass(frozen=True)
class Choice:
    """A bit width (None: float), the bytes that a module takes in it, and the error that it is predicted to add."""

    width: BitWidth | None
    bytes: int
    error: float


def min_bytes(choices: Mapping[str, Sequence[Choice]]) -> int:
    """Return the fewest bytes that the modules can take."""
    return sum(min(choice.bytes for choice in options) for options in choices.values())


def choose_widths(choices: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, Choice]:
    """Choose a width for each module.

    Args:
        choices: Module path -> its options.
        budget: The most bytes that all modules may take together.

    Returns:
        Module path -> the chosen option.

    Raises:
        ValueError: If even the smallest choices take more than the budget.
    """
    fronts = {name: convex_front(options) for name, options in choices.items()}
    chosen = dict.fromkeys(fronts, 0)
    remaining = budget - sum(front[0].bytes for front in fronts.values())
    if remaining < 0:
        raise ValueError(f"{budget} bytes are fewer than the smallest choices take")
    while True:
        steps = [
            (*_step(front, index), name) for name, front in fronts.items() if (index := chosen[name]) + 1 < len(front)
        ]
        fitting = [(gain, name) for gain, size, name in steps if size <= remaining]
        if not fitting:
            return {name: front[chosen[name]] for name, front in fronts.items()}
        # Greedy by the error saved per byte; on convex fronts that is close to the optimum, and the name breaks ties.
        _, name = max(fitting)
        remaining -= _step(fronts[name], chosen[name])[1]
        chosen[name] += 1


def convex_front(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices on the lower convex hull of error over bytes, smallest first, with falling errors."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda option: (option.bytes, option.error)):
        if hull and choice.error >= hull[-1].error:
            continue
        # A choice below the hull would never be worth its bytes: a step past it saves more for each.
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _step(front: Sequence[Choice], index: int) -> tuple[float, int]:
    """Return the error saved for a byte, and the bytes, of going one choice further."""
    return _gain(front[index], front[index + 1]), front[index + 1].bytes - front[index].bytes


def _gain(smaller: Choice, larger: Choice) -> float:
    return (smaller.error - larger.error) / (larger.bytes - smaller.bytes)
