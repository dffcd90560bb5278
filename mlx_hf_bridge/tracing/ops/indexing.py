"""Operations that read or write at computed indices, each of which clips them to the axis that they index."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.linear import QuantizedEmbedding
from mlx_hf_bridge.tracing.ops.bounds import check_bytes, check_positive, clip_indices, count_bytes


def _embedding(table: Any, ids: mx.array, *unused: Any, **also_unused: Any) -> mx.array:
    """Look up ids (...) in a table (V, D), float or packed -> (..., D)."""
    packed = isinstance(table, QuantizedEmbedding)
    ids = clip_indices(ids, (table.scales if packed else table).shape[0])
    rows: mx.array = table(ids) if packed else table[ids]
    return rows


def _index(x: mx.array, indices: Sequence[Any]) -> mx.array:
    if any(index is not None and index.dtype == mx.bool_ for index in indices):
        raise UnsupportedModelError(
            "the graph picks elements by a mask, so that a shape depends on values, which MLX cannot have. "
            "Use transformers on torch for this model."
        )
    return x[_by_axis(x, indices)]


def _by_axis(x: mx.array, indices: Sequence[Any]) -> tuple[Any, ...]:
    """Return torch's indices of the first axes, of which None stands for a whole axis, as an index of MLX."""
    sizes = x.shape[: len(indices)]
    return tuple(
        slice(None) if index is None else clip_indices(index, size, wraps=True)
        for index, size in zip(indices, sizes, strict=True)
    )


def _index_put(x: mx.array, indices: Sequence[Any], value: mx.array, accumulate: bool = False) -> mx.array:
    """Write values at indices, or one value where a mask is True."""
    mask = indices[0]
    if len(indices) == 1 and mask is not None and mask.dtype == mx.bool_:
        if value.shape != x.shape and value.size != 1 and (value.ndim != 1 or mask.ndim + 1 != x.ndim):
            raise UnsupportedModelError(
                f"the graph writes values of shape {value.shape} where a mask is true, expected one value or one row."
                " Use transformers on torch for this model."
            )
        spread = mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))
        return mx.where(spread, value.astype(x.dtype), x)
    index = _by_axis(x, indices)
    if _writes_nothing(x, *(part for part in index if isinstance(part, mx.array))):
        return x
    if accumulate:
        # Unlike assignment, this adds up values whose indices repeat, as torch does.
        return x.at[index].add(value)
    # A copy: MLX arrays are assigned in place, and other nodes still read x.
    changed = mx.array(x)
    changed[index] = value.astype(x.dtype)
    return changed


def _writes_nothing(x: mx.array, *indices: mx.array) -> bool:
    """Return whether there is nothing to write to or from, for which MLX may divide by zero."""
    return not x.size or any(not part.size for part in indices)


def _gather(x: mx.array, axis: int, indices: mx.array, **unused: Any) -> mx.array:
    """Gather along an axis; torch allows fewer indices than x has elements on the other axes."""
    other = axis % x.ndim
    kept = tuple(
        slice(None) if index == other or size == wanted else slice(0, wanted)
        for index, (size, wanted) in enumerate(zip(x.shape, indices.shape, strict=True))
    )
    return mx.take_along_axis(x[kept], clip_indices(indices, x.shape[axis]), axis=axis)


def _take_along(x: mx.array, indices: mx.array, axis: int | None = None) -> mx.array:
    return mx.take_along_axis(x, clip_indices(indices, x.size if axis is None else x.shape[axis]), axis=axis)


def _scatter(x: mx.array, axis: int, indices: mx.array, value: Any, **unused: Any) -> mx.array:
    if _writes_nothing(x, indices):
        return x
    if isinstance(value, (int, float)):
        value = mx.full(indices.shape, value, x.dtype)
    # A copy: MLX arrays are assigned in place, and other nodes still read x.
    changed = mx.array(x)
    changed[_grid(x, axis, indices)] = _source(indices, value).astype(x.dtype)
    return changed


def _scatter_add(x: mx.array, axis: int, indices: mx.array, value: mx.array) -> mx.array:
    if _writes_nothing(x, indices):
        return x
    return x.at[_grid(x, axis, indices)].add(_source(indices, value).astype(x.dtype))


def _source(indices: mx.array, value: mx.array) -> mx.array:
    """Return the values that are written: torch allows more values than indices."""
    if value.ndim != indices.ndim:
        raise UnsupportedModelError(
            f"the graph writes values of shape {value.shape} at indices of shape {indices.shape}. Convert the model "
            "again."
        )
    return value[tuple(slice(0, size) for size in indices.shape)]


_COMBINED: dict[str, Callable[[Any, mx.array], mx.array]] = {
    "amin": lambda at, value: at.minimum(value),
    "amax": lambda at, value: at.maximum(value),
    "sum": lambda at, value: at.add(value),
    "prod": lambda at, value: at.multiply(value),
}
_NEUTRAL = {"amin": float("inf"), "amax": float("-inf"), "sum": 0.0, "prod": 1.0, "mean": 0.0}


def _scatter_reduce(
    x: mx.array, axis: int, indices: mx.array, value: mx.array, way: str, include_self: bool = True
) -> mx.array:
    """Combine values at their indices; without include_self, the old value counts only where no new one came."""
    if _writes_nothing(x, indices):
        return x
    index = _grid(x, axis, indices)
    # Counts, because without include_self a position that nothing was written to keeps its old value.
    arrived = mx.zeros(x.shape, mx.int32).at[index].add(mx.ones(indices.shape, mx.int32))
    floats = _source(indices, value).astype(mx.float32)
    start = x.astype(mx.float32) if include_self else mx.full(x.shape, _NEUTRAL[way], mx.float32)
    if way == "mean":
        count = arrived + (1 if include_self else 0)
        combined = start.at[index].add(floats) / mx.maximum(count, 1)
    else:
        combined = _COMBINED[way](start.at[index], floats)
    return mx.where(arrived > 0, combined, x).astype(x.dtype)


def _grid(x: mx.array, axis: int, indices: mx.array) -> tuple[mx.array, ...]:
    """Return the full index of each element that `indices` names along an axis.

    torch allows fewer indices than x has elements on the other axes, which MLX's put_along_axis would repeat.
    """
    axis %= x.ndim
    if x.ndim != indices.ndim or any(
        given > size for number, (given, size) in enumerate(zip(indices.shape, x.shape, strict=True)) if number != axis
    ):
        raise UnsupportedModelError(
            f"the graph writes at indices of shape {indices.shape} into an array of shape {x.shape}. Convert the model "
            "again."
        )
    grid = []
    for number, size in enumerate(indices.shape):
        shape = [1] * indices.ndim
        shape[number] = size
        grid.append(mx.broadcast_to(mx.arange(size).reshape(shape), indices.shape))
    grid[axis] = clip_indices(indices, x.shape[axis])
    return tuple(grid)


def _one_hot(indices: mx.array, classes: int = -1) -> mx.array:
    # torch finds out the number of classes from the values, on which no shape can depend here.
    check_positive("classes", classes)
    return (indices[..., None] == mx.arange(classes)).astype(mx.int64)


def _bucketize(x: mx.array, bounds: mx.array, out_int32: bool = False, right: bool = False) -> mx.array:
    # Counts the bounds below each value; there are few, so no binary search is needed.
    check_bytes(count_bytes(x) * bounds.size)
    above = x[..., None] >= bounds if right else x[..., None] > bounds
    return mx.sum(above, axis=-1).astype(mx.int64)


INDEXING: dict[str, Callable[..., Any]] = {
    "embedding": _embedding,
    "index.Tensor": _index,
    "index_put": _index_put,
    "index_select": lambda x, axis, indices: mx.take(x, clip_indices(indices, x.shape[axis]), axis=axis),
    "gather": _gather,
    "take_along_dim": _take_along,
    "scatter.src": _scatter,
    "scatter.value": _scatter,
    "scatter_add": _scatter_add,
    "scatter_reduce.two": _scatter_reduce,
    "one_hot": _one_hot,
    "bucketize.Tensor": _bucketize,
    "searchsorted.Tensor": lambda bounds, x, out_int32=False, right=False: _bucketize(x, bounds, right=right),
}
