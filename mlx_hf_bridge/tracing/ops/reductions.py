"""Operations that reduce many values to one."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.ops.dtypes import DTYPES, promote_to_float, promote_to_int

Axes = int | Sequence[int] | None


def _axes(axes: Axes) -> Any:
    """Return the axes for MLX; torch's empty list stands for all axes."""
    return axes if axes is None or isinstance(axes, int) else (tuple(axes) or None)


def _sum(x: mx.array, axes: Axes = None, keepdim: bool = False, dtype: str | None = None) -> mx.array:
    x = promote_to_int(x) if dtype is None else x.astype(DTYPES[dtype])
    return mx.sum(x, axis=_axes(axes), keepdims=keepdim)


def _mean(x: mx.array, axes: Axes = None, keepdim: bool = False, dtype: str | None = None) -> mx.array:
    return mx.mean(x if dtype is None else x.astype(DTYPES[dtype]), axis=_axes(axes), keepdims=keepdim)


def _variance(x: mx.array, axes: Axes = None, correction: Any = 1, keepdim: bool = False) -> mx.array:
    return mx.var(x, axis=_axes(axes), keepdims=keepdim, ddof=int(correction))


def _plain(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def operation(x: mx.array, axes: Axes = None, keepdim: bool = False) -> mx.array:
        return function(x, axis=_axes(axes), keepdims=keepdim)

    return operation


def _arg(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def operation(x: mx.array, axis: int | None = None, keepdim: bool = False) -> mx.array:
        return function(x, axis=axis, keepdims=keepdim).astype(mx.int64)

    return operation


def _with_index(best: Callable[..., mx.array], argument: Callable[..., mx.array]) -> Callable[..., Any]:
    def operation(x: mx.array, axis: int, keepdim: bool = False) -> tuple[mx.array, mx.array]:
        return best(x, axis=axis, keepdims=keepdim), argument(x, axis=axis, keepdims=keepdim).astype(mx.int64)

    return operation


def _norm(
    x: mx.array, order: float = 2, axes: Axes = None, keepdim: bool = False, dtype: str | None = None
) -> mx.array:
    x = x if dtype is None else x.astype(DTYPES[dtype])
    return mx.power(mx.sum(mx.power(mx.abs(x), order), axis=_axes(axes), keepdims=keepdim), 1 / order)


def _euclidean(x: mx.array, order: float = 2, axes: Axes = None, keepdim: bool = False, dtype: Any = None) -> mx.array:
    if order != 2:
        return _norm(x, order, axes, keepdim, dtype)
    # By squares, since MLX's power goes through logarithms.
    return mx.sqrt(mx.sum(mx.square(promote_to_float(x)), axis=_axes(axes), keepdims=keepdim))


def _sorted(x: mx.array, axis: int = -1, descending: bool = False) -> tuple[mx.array, mx.array]:
    # MLX sorts in ascending order only.
    order = mx.argsort(-x if descending else x, axis=axis)
    return mx.take_along_axis(x, order, axis=axis), order.astype(mx.int64)


def _largest(
    x: mx.array, count: int, axis: int = -1, largest: bool = True, sort: bool = True
) -> tuple[mx.array, mx.array]:
    values, indices = _sorted(x, axis, largest)
    if not 0 <= count <= x.shape[axis]:
        raise UnsupportedModelError(f"the graph takes the best {count} of {x.shape[axis]} values. Pass longer texts.")
    first = mx.arange(count)
    return mx.take(values, first, axis=axis), mx.take(indices, first, axis=axis)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": lambda x, dtype=None: _sum(x, None, False, dtype),
    "sum.dim_IntList": _sum,
    "mean": lambda x, dtype=None: _mean(x, None, False, dtype),
    "mean.dim": _mean,
    "var.correction": _variance,
    "std.correction": lambda x, axes=None, correction=1, keepdim=False: mx.sqrt(
        _variance(x, axes, correction, keepdim)
    ),
    "prod.dim_int": _plain(mx.prod),
    "amax": _plain(mx.max),
    "amin": _plain(mx.min),
    "max": mx.max,
    "min": mx.min,
    "max.dim": _with_index(mx.max, mx.argmax),
    "min.dim": _with_index(mx.min, mx.argmin),
    "argmax": _arg(mx.argmax),
    "argmin": _arg(mx.argmin),
    "any": lambda x: mx.any(x),
    "any.dim": _plain(mx.any),
    "any.dims": _plain(mx.any),
    "all": lambda x: mx.all(x),
    "all.dim": _plain(mx.all),
    "logsumexp": _plain(mx.logsumexp),
    "linalg_vector_norm": _euclidean,
    "cumsum": lambda x, axis, dtype=None: mx.cumsum(
        promote_to_int(x) if dtype is None else x.astype(DTYPES[dtype]), axis
    ),
    "cumprod": lambda x, axis, dtype=None: mx.cumprod(promote_to_int(x), axis),
    "sort": _sorted,
    "argsort": lambda x, axis=-1, descending=False: _sorted(x, axis, descending)[1],
    "topk": _largest,
}
