"""Operations that rearrange elements and compute nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.ops.bounds import check_index, check_parts, check_positive, clip_indices, split_ends
from mlx_hf_bridge.tracing.ops.dtypes import DTYPES


def _reshape(x: mx.array, shape: Sequence[int]) -> mx.array:
    # MLX would take two negative sizes whose product fits.
    if any(size < -1 for size in shape):
        raise UnsupportedModelError(f"the graph makes a shape of {list(shape)!s:.80}. Convert the model again.")
    return mx.reshape(x, tuple(shape))


def _expand(x: mx.array, sizes: Sequence[int], **unused: Any) -> mx.array:
    """Broadcast to sizes, of which -1 keeps an axis; new axes come first."""
    old = (1,) * (len(sizes) - x.ndim) + tuple(x.shape)
    return mx.broadcast_to(x, tuple(kept if size == -1 else size for size, kept in zip(sizes, old, strict=True)))


def _slice(x: mx.array, axis: int = 0, start: Any = None, stop: Any = None, step: int = 1) -> mx.array:
    """Slice an axis; torch writes 2^63 - 1 for the end."""
    return x[_part(x, axis, start, stop, step)]


def _part(x: mx.array, axis: int, start: Any, stop: Any, step: int) -> tuple[slice, ...]:
    """Return the index of a slice of an axis."""
    # MLX divides by the step.
    check_positive("the step", step)
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, None if stop is None or stop >= x.shape[axis] else stop, step)
    return tuple(index)


def _select(x: mx.array, axis: int, at: Any) -> mx.array:
    """Return one index of an axis, which is removed."""
    # The index may be a computed array of no axes.
    if not isinstance(at, int):
        return mx.take(x, clip_indices(at, x.shape[axis], wraps=True), axis=axis)
    index: list[Any] = [slice(None)] * x.ndim
    index[axis] = check_index(at, x.shape[axis])
    return x[tuple(index)]


def _split(x: mx.array, size: Any, axis: int = 0) -> list[mx.array]:
    """Split into parts of one size, the last one smaller, or into the sizes of a list."""
    whole, sizes = x.shape[axis], size
    if not isinstance(size, (list, tuple)):
        check_positive("parts of", size)
        # Before a list of that length is made.
        check_parts(whole // size + 1)
        sizes = [size] * (whole // size) + ([whole % size] if whole % size or not whole else [])
    ends = split_ends(sizes, whole)
    return list(mx.split(x, ends, axis=axis)) if ends else [x]


def _chunk(x: mx.array, count: int, axis: int = 0) -> list[mx.array]:
    return _split(x, -(-x.shape[axis] // count), axis)


_MODES: dict[str, Any] = {"constant": "constant", "replicate": "edge", "reflect": "reflect"}


def _pad(x: mx.array, widths: Sequence[int], mode: str = "constant", value: float | None = None) -> mx.array:
    """Pad by torch's widths: (before, after) of the last axis first; negative ones truncate."""
    pairs = [(widths[index], widths[index + 1]) for index in range(0, len(widths), 2)][::-1]
    pairs = [(0, 0)] * (x.ndim - len(pairs)) + pairs
    for axis, (before, after) in enumerate(pairs):
        # mx.pad takes no negative widths.
        if before < 0 or after < 0:
            x = _slice(x, axis, max(0, -before), x.shape[axis] + min(0, after))
    padding = [(max(0, before), max(0, after)) for before, after in pairs]
    if mode == "reflect" and any(max(pair) >= size for pair, size in zip(padding, x.shape, strict=True) if any(pair)):
        # MLX would reflect the reflection again and again, in time without bound.
        raise UnsupportedModelError(f"the graph reflects {padding} of an array of shape {x.shape}. Pass longer texts.")
    return mx.pad(x, padding, mode=_MODES[mode], constant_values=0 if value is None else value)


def _squeeze(x: mx.array, axes: Any = None) -> mx.array:
    """Remove axes of size 1; others stay."""
    candidates = range(x.ndim) if axes is None else [axes] if isinstance(axes, int) else axes
    return mx.squeeze(x, [axis for axis in candidates if x.shape[axis] == 1])


def _repeat(x: mx.array, times: Sequence[int]) -> mx.array:
    return mx.tile(x, tuple(times))


def _repeat_each(x: mx.array, times: int, axis: int | None = None, **unused: Any) -> mx.array:
    return mx.repeat(x, times, axis=axis)


def _concatenate(arrays: Sequence[mx.array], axis: int = 0) -> mx.array:
    """Concatenate arrays; as in torch, empty vectors are skipped."""
    whole = [array for array in arrays if array.shape != (0,)]
    return mx.concatenate(whole, axis=axis)


def _slice_scatter(
    x: mx.array, part: mx.array, axis: int = 0, start: Any = None, stop: Any = None, step: int = 1
) -> mx.array:
    changed = mx.array(x)
    changed[_part(x, axis, start, stop, step)] = part.astype(x.dtype)
    return changed


def _select_scatter(x: mx.array, part: mx.array, axis: int, at: int) -> mx.array:
    index: list[Any] = [slice(None)] * x.ndim
    index[axis] = check_index(at, x.shape[axis])
    changed = mx.array(x)
    changed[tuple(index)] = part.astype(x.dtype)
    return changed


def _roll(x: mx.array, shifts: Any, axes: Any = ()) -> mx.array:
    return mx.roll(x, tuple(shifts) if isinstance(shifts, list) else shifts, tuple(axes) or None)


def _flip(x: mx.array, axes: Sequence[int]) -> mx.array:
    for axis in axes:
        index = [slice(None)] * x.ndim
        index[axis] = slice(None, None, -1)
        x = x[tuple(index)]
    return x


def _view_as(x: mx.array, dtype: str) -> mx.array:
    return x.view(DTYPES[dtype])


def _identity(x: mx.array, *unused: Any, **also_unused: Any) -> mx.array:
    return x


def _unbind(x: mx.array, axis: int = 0) -> list[mx.array]:
    check_parts(x.shape[axis])
    return [_select(x, axis, at) for at in range(x.shape[axis])]


SHAPES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "dropout"), _identity),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _reshape),
    "view.dtype": _view_as,
    "flatten.using_ints": lambda x, start=0, end=-1: mx.flatten(x, start, end),
    "expand": _expand,
    "expand_as": lambda x, other: mx.broadcast_to(x, other.shape),
    "broadcast_to": _expand,
    "repeat": _repeat,
    "tile": _repeat,
    "repeat_interleave.self_int": _repeat_each,
    "unsqueeze": lambda x, axis: mx.expand_dims(x, axis),
    "squeeze": _squeeze,
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "t": lambda x: x.T,
    "numpy_T": lambda x: x.T,
    "mT": lambda x: mx.swapaxes(x, -1, -2),
    "transpose.int": lambda x, one, other: mx.swapaxes(x, one, other),
    "permute": lambda x, axes: mx.transpose(x, tuple(axes)),
    "movedim.int": lambda x, source, target: mx.moveaxis(x, source, target),
    "slice.Tensor": _slice,
    "select.int": _select,
    "narrow": lambda x, axis, start, length: _slice(x, axis, start, start + length),
    "split.Tensor": _split,
    "split.sizes": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "unbind.int": _unbind,
    "cat": _concatenate,
    "concat": _concatenate,
    "stack": lambda arrays, axis=0: mx.stack(list(arrays), axis=axis),
    "pad": _pad,
    "constant_pad_nd": lambda x, widths, value=0: _pad(x, widths, value=value),
    "slice_scatter": _slice_scatter,
    "select_scatter": _select_scatter,
    "copy": lambda x, other: mx.broadcast_to(other.astype(x.dtype), x.shape),
    "roll": _roll,
    "flip": _flip,
    "tril": lambda x, diagonal=0: mx.tril(x, diagonal),
    "triu": lambda x, diagonal=0: mx.triu(x, diagonal),
}
