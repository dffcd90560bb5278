"""Linear layers, matmuls, norms, attention, convolutions and other parts of layers.

B texts, H heads, L queries, S keys, K head size, I inputs, O outputs, C channels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.attention import attend
from mlx_hf_bridge.layers.linear import QuantizedModule
from mlx_hf_bridge.tracing.ops.bounds import check_bytes, check_positive, count_bytes
from mlx_hf_bridge.tracing.ops.dtypes import promote_to_float


def linear(x: mx.array, weight: Any, bias: mx.array | None = None) -> mx.array:
    """Apply a linear layer.

    Args:
        x: (..., I).
        weight: (O, I), float or packed.
        bias: (O,), or None.

    Returns:
        x @ weight.T + bias, of shape (..., O).
    """
    if isinstance(weight, QuantizedModule):
        projected = weight.matmul(x)
        return projected if bias is None else projected + bias
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)


def _softmax(x: mx.array, axis: int, dtype: str | None = None) -> mx.array:
    # `precise` sums in float32, as torch does for half precision.
    return mx.softmax(promote_to_float(x), axis=axis, precise=True)


def _log_softmax(x: mx.array, axis: int, dtype: str | None = None) -> mx.array:
    # More exact than the logarithm of a softmax, whose small values underflow.
    return x - mx.logsumexp(x, axis=axis, keepdims=True)


def _layer_norm(
    x: mx.array, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *unused: Any
) -> mx.array:
    if len(shape) == 1:
        return mx.fast.layer_norm(x, weight, bias, eps)
    flat = mx.flatten(x, x.ndim - len(shape), -1)
    return mx.fast.layer_norm(
        flat, None if weight is None else weight.flatten(), None if bias is None else bias.flatten(), eps
    ).reshape(x.shape)


def _rms_norm(x: mx.array, shape: Sequence[int], weight: Any = None, eps: float | None = None) -> mx.array:
    # torch's default is the machine epsilon, about 1.2e-7 for float32.
    return mx.fast.rms_norm(x, weight, 1.2e-7 if eps is None else eps)


def _group_norm(x: mx.array, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *unused: Any) -> Any:
    """Normalize x (B, C, ...) over each group of channels."""
    check_positive("groups of a shape", groups, *x.shape)
    grouped = x.reshape(x.shape[0], groups, -1)
    # A group's values are one row here, so layer norm without weights does it.
    normed = mx.fast.layer_norm(grouped, None, None, eps).reshape(x.shape)
    spread = (1, -1, *[1] * (x.ndim - 2))
    normed = normed if weight is None else normed * weight.reshape(spread)
    return normed if bias is None else normed + bias.reshape(spread)


def _batch_norm(
    x: mx.array, weight: Any, bias: Any, mean: mx.array, variance: mx.array, momentum: float, eps: float
) -> tuple[mx.array, None, None]:
    """Normalize x (B, C, ...) by stored statistics of the channels; training would return new ones as well."""
    spread = (1, -1, *[1] * (x.ndim - 2))
    factor = mx.rsqrt(variance + eps) * (1 if weight is None else weight)
    offset = (0 if bias is None else bias) - mean * factor
    return (x * factor.reshape(spread) + offset.reshape(spread)).astype(x.dtype), None, None


def attention(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    mask: mx.array | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> mx.array:
    """Compute scaled dot-product attention.

    A query whose keys are all masked is padding; its output is any number but NaN, which would spread through values.

    Args:
        q: Queries (B, H, L, K).
        k: Keys (B, H, S, K).
        v: Values (B, H, S, K).
        mask: Bool, True for keys to attend to, or float, added to the scores; None for all keys.
        dropout: Ignored.
        is_causal: Whether a query attends only to earlier keys and its own.
        scale: The factor of the scores; None for K ** -0.5.
        enable_gqa: Ignored.

    Returns:
        (B, H, L, K).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    shape = q.shape
    q, k, v, mask = (_four_axes(x) for x in (q, k, v, mask))
    # MLX divides by the number of heads.
    check_positive("keys of shape", *k.shape)
    if is_causal or (mask is not None and mask.dtype != mx.bool_):
        # Without such a mask the scores are never in memory as a whole.
        check_bytes(math.prod(q.shape[:3]) * k.shape[2] * q.itemsize, "computes attention scores")
    if is_causal:
        # Aligned at the first position, as torch's is_causal; MLX's own "causal" aligns at the last.
        mask = mx.tri(q.shape[2], k.shape[2]).astype(mx.bool_)[None, None]
    if mask is not None and mask.dtype != mx.bool_:
        mask = mask.astype(q.dtype)
    return attend(q, k, v, scale, mask, None).reshape(*shape[:-1], v.shape[-1])


def _four_axes(x: Any) -> Any:
    """Insert or merge leading axes: (..., L, K) -> (B, H, L, K)."""
    if x is None or x.ndim == 4:
        return x
    return x[(None,) * (4 - x.ndim)] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x.flatten(0, -4)


def _conv(
    x: mx.array,
    weight: mx.array,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> mx.array:
    """Convolve x (B, C, ...) with weight (O, C / groups, ...): channels are second in torch, last in MLX."""
    convolve: Any = {3: mx.conv1d, 4: mx.conv2d}[x.ndim]
    # MLX divides by the groups, and computes nothing sensible of empty arrays.
    check_positive("groups and sizes of a convolution", groups, *x.shape, *weight.shape)
    stride, padding, dilation = (_per_axis(given, x.ndim - 2) for given in (stride, padding, dilation))
    widths = [padding] if isinstance(padding, int) else padding
    padded = [size + 2 * width for size, width in zip(x.shape[2:], widths, strict=True)]
    check_bytes(math.prod((*x.shape[:2], *padded)) * x.itemsize, "pads to an array")
    result = convolve(mx.moveaxis(x, 1, -1), mx.moveaxis(weight, 1, -1), stride, padding, dilation, groups)
    return mx.moveaxis(result if bias is None else result + bias, -1, 1)


def _per_axis(given: Any, count: int) -> Any:
    """Return the numbers of a convolution's axes: one number for one axis, a pair for two."""
    numbers = [given] if isinstance(given, int) else list(given)
    numbers = numbers * count if len(numbers) == 1 else numbers
    return numbers[0] if count == 1 else tuple(numbers)


def _windows(x: mx.array, size: int, stride: int, axis: int) -> mx.array:
    """Return overlapping windows along an axis, (..., windows, size); that axis is removed."""
    check_positive("windows of the size and the stride", size, stride)
    count = (x.shape[axis] - size) // stride + 1
    check_positive("a number of windows of", count)
    indices = mx.arange(count)[:, None] * stride + mx.arange(size)
    # The windowed axis last, so that one lookup gives (..., windows, size).
    moved = mx.moveaxis(x, axis, -1)
    return moved[..., indices]


def _pool1d(reduce: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def operation(x: mx.array, size: Any, stride: Any = (), padding: Any = 0, *unused: Any) -> mx.array:
        size = _per_axis(size, 1)
        step = size if stride == () or stride == [] else _per_axis(stride, 1)
        return reduce(_windows(x, size, step, -1), axis=-1)

    return operation


def _im2col(
    x: mx.array, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> mx.array:
    """Unfold x (B, C, L, 1) by a kernel of width 1, as torch does -> (B, C x kernel, windows)."""
    padded = mx.pad(x, [(0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2])
    check_bytes(count_bytes(padded), "pads to an array")
    windows = _windows(padded[..., 0], kernel[0], stride[0], -1)  # (B, C, windows, kernel)
    return mx.swapaxes(windows, -1, -2).reshape(x.shape[0], -1, windows.shape[2])


def _upsample_bilinear(
    x: mx.array, size: Sequence[int] | None, align_corners: bool = False, factors: Sequence[float] | None = None
) -> mx.array:
    """Interpolate x (B, C, height, width) linearly along its last two axes to another size."""
    if size is None or align_corners or factors is not None:
        raise UnsupportedModelError(
            f"the graph interpolates to size={size} with align_corners={align_corners} and scale_factors={factors}; "
            "only a size without aligned corners is computed. Use transformers on torch for this model."
        )
    check_positive("sizes of an interpolation", *x.shape, *size)
    check_bytes(x.shape[0] * x.shape[1] * max(x.shape[2], size[0]) * max(x.shape[3], size[1]) * 4, "interpolates to")
    for axis, (old, new) in enumerate(zip(x.shape[2:], size, strict=True), 2):
        if old == new:
            continue
        # Centers of the new pixels among those of the old ones.
        places = mx.maximum((mx.arange(new) + 0.5) * (old / new) - 0.5, 0)
        before = mx.minimum(places.astype(mx.int32), old - 1)
        share = (places - before).reshape(-1, *[1] * (3 - axis)).astype(x.dtype)
        near, far = mx.take(x, before, axis), mx.take(x, mx.minimum(before + 1, old - 1), axis)
        x = near * (1 - share) + far * share
    return x


def _fourier(x: mx.array, sizes: Any = None, axes: Any = None, norm: str | None = None) -> mx.array:
    return mx.fft.fftn(x, axes=tuple(axes))


def _view_as_real(x: mx.array) -> mx.array:
    """Return the real and imaginary parts of a complex array as a last axis."""
    return mx.stack([mx.real(x), mx.imag(x)], axis=-1)


NEURAL: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "matmul": mx.matmul,
    "bmm": mx.matmul,
    "mm": mx.matmul,
    "mv": mx.matmul,
    "dot": mx.matmul,
    "addmm": lambda x, y, z, beta=1, alpha=1: x * beta + mx.matmul(y, z) * alpha,
    "baddbmm": lambda x, y, z, beta=1, alpha=1: x * beta + mx.matmul(y, z) * alpha,
    "einsum": lambda equation, arrays, **unused: mx.einsum(equation, *arrays),
    "softmax.int": _softmax,
    "_softmax": _softmax,
    "log_softmax.int": _log_softmax,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "scaled_dot_product_attention": attention,
    "conv1d": _conv,
    "conv2d": _conv,
    "max_pool1d": _pool1d(mx.max),
    "avg_pool1d": _pool1d(mx.mean),
    "im2col": _im2col,
    "upsample_bilinear2d.vec": _upsample_bilinear,
    "fft_fftn": _fourier,
    "view_as_real": _view_as_real,
    "real": mx.real,
    "imag": mx.imag,
}
