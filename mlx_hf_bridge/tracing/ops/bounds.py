"""Bounds on what a graph may read, write and allocate: it is a file, which may come from anyone."""

import functools
import itertools
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError

# What stays is for the weights, the process itself, and arrays that MLX computes ahead.
_SHARE = 0.5
# Where the memory of the machine cannot be found out.
_UNKNOWN_MEMORY = 8 * 2**30
# Limits of containers, in either version of Linux's control groups.
_CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# Arrays of one operation; each costs memory even where it is a view.
_MAX_PARTS = 2**16


@functools.cache
def memory_budget() -> int:
    """Return the bytes that the arrays of a graph may take at once: a share of the memory that this process can have.

    Returns:
        Half of the least of the machine's memory, its container's limit, and what is left of the process's limit.
    """
    return int(_SHARE * min(_physical_memory(), *map(_container_limit, _CONTAINER_LIMITS), _left_of_limit()))


def _physical_memory() -> int:
    try:
        found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # no such function on Windows, or no such value
        return _UNKNOWN_MEMORY
    return found if found > 0 else _UNKNOWN_MEMORY


def _container_limit(file: str) -> int:
    try:
        # "max" where there is no limit.
        return int(Path(file).read_text())
    except (OSError, ValueError):
        return sys.maxsize


def _left_of_limit() -> int:
    """Return what the process may still allocate under its limit on address space (ulimit -v)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (ImportError, AttributeError, OSError, ValueError):  # neither exists everywhere
        return sys.maxsize
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(limit - used, 0)


def count_bytes(value: Any) -> int:
    """Return the bytes of an array or a list of arrays; 0 for numbers.

    Args:
        value: The value of a node.
    """
    if isinstance(value, mx.array):
        # Python's integers: MLX's own `size` overflows for what a hostile graph can broadcast to.
        return math.prod(value.shape) * value.itemsize
    return sum(map(count_bytes, value)) if isinstance(value, (list, tuple)) else 0


def check_bytes(count: float, what: str = "makes an array") -> None:
    """Check that arrays fit the memory budget.

    Args:
        count: Their bytes.
        what: What the graph does, for the error.

    Raises:
        UnsupportedModelError: If they do not, or the count is not a number.
    """
    # Written this way so that NaN is refused too.
    if not count <= memory_budget():
        raise UnsupportedModelError(
            f"the graph {what} of {count:.3e} bytes, expected at most {memory_budget():.3e}, half of the memory that "
            "this process can have. Pass fewer or shorter texts; if they are few, the folder's graph.json is broken: "
            "convert the model again."
        )


def check_parts(count: int) -> None:
    """Check the number of arrays that one operation returns.

    Args:
        count: How many.

    Raises:
        UnsupportedModelError: If there are none, or more than any model needs.
    """
    if not 0 < count <= _MAX_PARTS:
        raise _broken(f"splits an array into {count} parts, expected 1 to {_MAX_PARTS}")


def split_ends(sizes: Sequence[Any], whole: int) -> list[int]:
    """Return where to split an axis into parts.

    Args:
        sizes: The sizes of the parts.
        whole: The size of the axis.

    Returns:
        The ends of all parts but the last.

    Raises:
        UnsupportedModelError: If the sizes do not add up, for which MLX may end the process.
    """
    check_parts(len(sizes))
    if not all(isinstance(size, int) and size >= 0 for size in sizes) or sum(sizes) != whole:
        raise _broken(f"splits an axis of size {whole} into {list(sizes)!s:.80}")
    return list(itertools.accumulate(sizes))[:-1]


def clip_indices(indices: Any, size: int, wraps: bool = False) -> mx.array:
    """Clip indices to the axis that they index, since MLX reads and writes other memory for those outside.

    Lookups that can be known before the graph runs are refused with an error instead (index_checks.py).

    Args:
        indices: Integers of any shape.
        size: The size of the axis.
        wraps: Whether negative indices count from the end, as in torch's indexing by brackets.

    Returns:
        The indices, of which none is outside.

    Raises:
        UnsupportedModelError: If they are no integers, or the axis is empty.
    """
    if not isinstance(indices, mx.array) or not mx.issubdtype(indices.dtype, mx.integer):
        kind = indices.dtype if isinstance(indices, mx.array) else type(indices).__name__
        raise _broken(f"indexes by {kind}, expected an array of integers")
    if size < 1 and indices.size:
        raise _broken("indexes an axis of size 0")
    # Bounds in a narrower dtype could overflow.
    wide = indices if indices.dtype in (mx.int32, mx.int64) else indices.astype(mx.int64)
    return mx.clip(wide, -size if wraps else 0, size - 1)


def check_index(index: Any, size: int) -> int:
    """Check one index of an axis; negative ones count from the end.

    Args:
        index: The index.
        size: The size of the axis.

    Returns:
        The index as an int.

    Raises:
        UnsupportedModelError: If it is no integer or outside the axis.
    """
    if not isinstance(index, int) or not -size <= index < size:
        raise _broken(f"reads index {index!r:.40} of an axis of size {size}")
    return int(index)


def check_positive(what: str, *numbers: Any) -> None:
    """Check that numbers are integers above 0, where MLX would divide by them or read outside of an array.

    Args:
        what: What they are, for the error.
        numbers: The numbers.

    Raises:
        UnsupportedModelError: If one is not.
    """
    if not all(isinstance(number, int) and number > 0 for number in numbers):
        raise _broken(f"has {what} {', '.join(map(repr, numbers))!s:.80}, expected integers above 0")


def _broken(what: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"the graph {what}. Convert the model again.")
