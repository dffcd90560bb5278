"""Operations that create arrays from sizes and numbers."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.tracing.ops.bounds import check_bytes
from mlx_hf_bridge.tracing.ops.dtypes import mlx_dtype


def _natural_dtype(value: Any) -> mx.Dtype:
    """Return the dtype that torch gives a number or array."""
    if isinstance(value, mx.array):
        return value.dtype
    if isinstance(value, bool):
        return mx.bool_
    return mx.int64 if isinstance(value, int) else mx.float32


def _full(shape: Sequence[int], value: Any, dtype: str | None = None) -> mx.array:
    kind = mlx_dtype(dtype, _natural_dtype(value))
    # Before MLX is asked, which takes sizes of 32 bits only and names neither the graph nor a remedy.
    check_bytes(math.prod(shape) * kind.size)
    return mx.full(tuple(shape), value, kind)


def _arange(*bounds: Any, dtype: str | None = None) -> mx.array:
    kind = mx.int64 if all(isinstance(bound, int) for bound in bounds) else mx.float32
    start, stop, step = {1: (0, *bounds, 1), 2: (*bounds, 1), 3: bounds}[len(bounds)]
    kind = mlx_dtype(dtype, kind)
    check_bytes(abs((stop - start) / step) * kind.size)
    return mx.arange(start, stop, step, kind)


def _full_like(x: mx.array, value: Any, dtype: str | None = None, **unused: Any) -> mx.array:
    return mx.full(x.shape, value, mlx_dtype(dtype, x.dtype))


def _new(value: Any) -> Callable[..., mx.array]:
    def operation(x: mx.array, shape: Sequence[int], dtype: str | None = None, **unused: Any) -> mx.array:
        return _full(shape, value, dtype).astype(mlx_dtype(dtype, x.dtype))

    return operation


def _new_full(x: mx.array, shape: Sequence[int], value: Any, dtype: str | None = None, **unused: Any) -> mx.array:
    return _full(shape, value, dtype).astype(mlx_dtype(dtype, x.dtype))


CREATION: dict[str, Callable[..., Any]] = {
    "full": _full,
    "zeros": lambda shape, dtype=None: _full(shape, 0, dtype or "float32"),
    "ones": lambda shape, dtype=None: _full(shape, 1, dtype or "float32"),
    "full_like": _full_like,
    "zeros_like": lambda x, dtype=None, **unused: _full_like(x, 0, dtype),
    "ones_like": lambda x, dtype=None, **unused: _full_like(x, 1, dtype),
    "new_zeros": _new(0),
    "new_ones": _new(1),
    "new_full": _new_full,
    "arange": _arange,
    "arange.start": _arange,
    "arange.start_step": _arange,
    "eye": lambda size, dtype=None: mx.eye(size, dtype=mlx_dtype(dtype, mx.float32)),
    "eye.m": lambda rows, columns, dtype=None: mx.eye(rows, columns, dtype=mlx_dtype(dtype, mx.float32)),
}
