"""What the passes put in the place of several of torch's operations.

B texts, H heads, L tokens, K width of a head, I inputs, O outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.tracing.ops.neural import attention, linear


def _open_rows(mask: mx.array) -> mx.array:
    """mask (..., S) bool -> the same with rows of nothing made rows of everything, which MLX's softmax needs."""
    return mx.logical_or(mask, mx.logical_not(mx.any(mask, axis=-1, keepdims=True)))


def _rms_norm(x: mx.array, weight: Any, eps: float, plus: float = 0.0) -> mx.array:
    """x / sqrt(mean(x^2) + eps) * (weight + plus)."""
    return mx.fast.rms_norm(x, weight if weight is None or not plus else weight + plus, eps)


def _rope(x: mx.array, periods: mx.array, interleaved: bool = False) -> mx.array:
    """x (B, H, L, K) turned at counted places; periods (K / 2,)."""
    return mx.fast.rope(x, x.shape[-1], traditional=interleaved, base=None, scale=1.0, offset=0, freqs=periods)


def _linears(x: mx.array, weight: Any, bias: Any, sizes: Sequence[int]) -> list[mx.array]:
    """Products that read the same x as one (joined.py), split again."""
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes) - 1)]
    return list(mx.split(linear(x, weight, bias), ends, axis=-1))


def _all_rows(x: mx.array, mask: mx.array) -> mx.array:
    """x (B, ...) for rows that a mask (B,) picks; those that it does not are left out when they are put back."""
    if mask.ndim != 1:
        raise UnsupportedModelError(
            f"the graph picks elements by a mask of {mask.ndim} axes, expected rows. Use transformers on torch."
        )
    return x


FUSED: dict[str, Callable[..., Any]] = {
    "bridge.all_rows": _all_rows,
    "bridge.open_rows": _open_rows,
    "bridge.rms_norm": _rms_norm,
    "bridge.rope": _rope,
    "bridge.linears": _linears,
    "bridge.attention": attention,
}
