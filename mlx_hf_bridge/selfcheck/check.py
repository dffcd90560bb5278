"""The result of one check, and arrays computed on the device and on the CPU."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.runtime.executor import run

# Bounds of an error relative to the largest value: float32 sums in another order, and rounding to 11 and 8 significant
# bits in every layer.
BOUNDS = {mx.float32: 2e-5, mx.float16: 6e-3, mx.bfloat16: 6e-2}

# A path of any system; what precedes it is neither part of a word nor of an address.
_PATH = re.compile(r"(?<![\w:/])(?:~|[A-Za-z]:)?[/\\][^\s'\":,;]+")


@dataclass(frozen=True)
class Check:
    """What was checked, and what was found.

    Attributes:
        group: Kind of check, such as "layers".
        name: What was checked.
        passed: Whether it is as expected; None if it could not be checked here.
        figure: What was measured.
        expected: What it should be.
        details: What was measured in each case, or the error that it raised, if the check has several.
    """

    group: str
    name: str
    passed: bool | None
    figure: str
    expected: str
    details: Mapping[str, float | str] = field(default_factory=dict)


def bounded(group: str, name: str, error: float, bound: float) -> Check:
    """Return a check that an error is within a bound; NaN is not.

    Args:
        group: Kind of check.
        name: What was checked.
        error: The error, relative to the largest value.
        bound: The largest error that is right.

    Returns:
        The check.
    """
    return Check(group, name, bool(error <= bound), f"{error:.1e}", f"at most {bound:.0e}")


def guarded(group: str, name: str, check: Callable[[], Check]) -> Check:
    """Run a check; an error that it raises is a failure with the error as its figure.

    Args:
        group: Kind of check.
        name: What is checked.
        check: The check.

    Returns:
        Its result.
    """
    try:
        return check()
    except Exception as error:  # of MLX, a driver or this package: the other checks are still worth running
        return Check(group, name, False, without_paths(f"{type(error).__name__}: {error}"), "no error")


def without_paths(text: str) -> str:
    """Return the first 200 characters of a text with "<path>" for each path, since reports are pasted into issues.

    Args:
        text: The message of an error.

    Returns:
        The text.
    """
    return _PATH.sub("<path>", text)[:200]


def on_device(compute: Callable[[], mx.array]) -> np.ndarray:
    """Compute an array on the default device.

    Args:
        compute: Builds the array.

    Returns:
        The array as float32.
    """
    return np.array(run(lambda: compute().astype(mx.float32)))


def on_cpu(compute: Callable[[], mx.array]) -> np.ndarray:
    """Compute an array on MLX's CPU device, whatever the default device is.

    Args:
        compute: Builds the array.

    Returns:
        The array as float32.
    """

    def within_stream() -> mx.array:
        # Compiled functions would need a C++ compiler on a CPU.
        mx.disable_compile()
        try:
            with mx.stream(mx.cpu):
                array = compute().astype(mx.float32)
                mx.eval(array)
                return array
        finally:
            mx.enable_compile()

    return np.array(run(within_stream))


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest expected value or 1.

    Args:
        actual: Array of any shape.
        expected: Array of the same shape.

    Returns:
        The error; NaN or infinity if `actual` has such values.
    """
    return float(np.abs(actual - expected).max() / max(1.0, float(np.abs(expected).max())))


def worst(errors: Sequence[float]) -> float:
    """Return the largest error.

    Args:
        errors: Errors, one or more.

    Returns:
        The largest; NaN if one is NaN.
    """
    return float(np.max(np.asarray(errors)))
