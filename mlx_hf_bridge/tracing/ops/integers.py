"""Arithmetic on sizes: Python integers, kept within bounds."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError

# Python's integers grow without bound; sizes stay within int64.
_MAX_SIZE = 2**62
# Checked before computing: a large power of a Python integer could take all memory.
_MAX_EXPONENT = 64


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def operation(*numbers: Any) -> Any:
        # Python's operators would also repeat lists and texts, in any amount of memory.
        if not all(isinstance(number, (int, float)) for number in numbers):
            kinds = ", ".join(type(number).__name__ for number in numbers)
            raise UnsupportedModelError(f"the graph computes a size of {kinds}, expected numbers. Convert it again.")
        result = function(*numbers)
        if abs(result) > _MAX_SIZE:
            raise UnsupportedModelError(
                f"the graph computes a size of {result:.3e}, expected at most 2^62. Convert the model again."
            )
        return result

    return operation


def _power(x: Any, exponent: Any) -> Any:
    if abs(exponent) > _MAX_EXPONENT:
        raise UnsupportedModelError(
            f"the graph raises a size to the power {exponent}, expected {_MAX_EXPONENT} at most. "
            "Convert the model again."
        )
    return float(x**exponent) if isinstance(exponent, float) or exponent < 0 else x**exponent


def _getitem(values: Sequence[Any], index: int) -> Any:
    if not isinstance(values, (list, tuple)):
        raise UnsupportedModelError(
            f"the graph takes a part of {type(values).__name__}, expected several results. Convert the model again."
        )
    return values[index]


_NAMED: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "truediv": operator.truediv,
    "mod": operator.mod,
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "not": operator.not_,
    "min": min,
    "max": max,
    "pow": _power,
    "int": int,
    "float": float,
    "sqrt": lambda x: float(x**0.5),
}
SCALARS: dict[str, Callable[..., Any]] = {f"sym.{name}": _bounded(function) for name, function in _NAMED.items()}
SCALARS |= {
    "sym.getitem": _getitem,
    "sym_size.int": lambda x, axis: x.shape[axis],
    "item": lambda x: x.item(),
    "scalar_tensor": lambda value, dtype=None: mx.array(value),
}
