"""Widths for every module within a number of bytes, of the least predicted error.

Each module has a convex front of choices (bytes, error). Starting from the smallest, the step of most error saved a
byte is taken while any fits; on such fronts that is best but for the last bytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlx_hf_bridge.quantization.widths import BitWidth


@dataclass(frozen=True)
class Choice:
    """A width (None: float), the bytes that a module takes in it, and the error that it is predicted to add."""

    width: BitWidth | None
    bytes: int
    error: float


def min_bytes(choices: Mapping[str, Sequence[Choice]]) -> int:
    """The fewest bytes that the modules can take."""
    return sum(min(choice.bytes for choice in of_one) for of_one in choices.values())


def choose_widths(choices: Mapping[str, Sequence[Choice]], budget: int) -> dict[str, Choice]:
    """One choice a module, `budget` bytes or fewer in all; ValueError where even the smallest take more."""
    fronts = {name: convex_front(of_one) for name, of_one in choices.items()}
    places = dict.fromkeys(fronts, 0)
    left = budget - sum(found[0].bytes for found in fronts.values())
    if left < 0:
        raise ValueError(f"{budget} bytes are fewer than the smallest choices take")
    while True:
        steps = [
            (*_step(found, place), name) for name, found in fronts.items() if (place := places[name]) + 1 < len(found)
        ]
        fitting = [(gain, name) for gain, size, name in steps if size <= left]
        if not fitting:
            return {name: found[places[name]] for name, found in fronts.items()}
        _, name = max(fitting)
        left -= _step(fronts[name], places[name])[1]
        places[name] += 1


def convex_front(choices: Sequence[Choice]) -> list[Choice]:
    """The choices on the lower convex hull of error over bytes, smallest first, each of less error than the last."""
    hull: list[Choice] = []
    for choice in sorted(choices, key=lambda one: (one.bytes, one.error)):
        if hull and choice.error >= hull[-1].error:
            continue
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _step(found: Sequence[Choice], place: int) -> tuple[float, int]:
    """The error saved a byte, and the bytes, of going one choice further."""
    return _gain(found[place], found[place + 1]), found[place + 1].bytes - found[place].bytes


def _gain(one: Choice, other: Choice) -> float:
    return (one.error - other.error) / (other.bytes - one.bytes)
