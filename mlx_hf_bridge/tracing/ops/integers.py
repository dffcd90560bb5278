"""Sizes and what is computed of them: Python's whole numbers, kept within bounds."""

import operator
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError

_MOST = 2**62
_LARGEST_POWER = 64


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    def operation(*numbers: Any) -> Any:
        result = function(*numbers)
        if not isinstance(result, (mx.array, tuple, list)) and abs(result) > _MOST:
            raise UnsupportedModelError(
                f"the graph computes a size of {result:.3e}, expected at most 2^62. Convert the model again."
            )
        return result

    return operation


def _power(x: Any, exponent: Any) -> Any:
    if abs(exponent) > _LARGEST_POWER:
        raise UnsupportedModelError(
            f"the graph raises a size to the power {exponent}, expected {_LARGEST_POWER} at most. Convert again."
        )
    return float(x**exponent) if isinstance(exponent, float) or exponent < 0 else x**exponent


def _part(values: Any, index: int) -> Any:
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
    "sym.getitem": _part,
    "sym_size.int": lambda x, axis: x.shape[axis],
    "item": lambda x: x.item(),
    "scalar_tensor": lambda value, dtype=None: mx.array(value),
}
