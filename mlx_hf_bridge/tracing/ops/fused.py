"""Operations that the passes put in place of several of torch's.

B texts, H heads, L tokens, K head size, I inputs, O outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import UnsupportedModelError
from mlx_hf_bridge.layers.rotary import counted_rotation
from mlx_hf_bridge.tracing.ops.bounds import split_ends
from mlx_hf_bridge.tracing.ops.neural import attention, linear


def _unmask_empty_rows(mask: mx.array) -> mx.array:
    """Unmask all keys in rows of a mask (..., S) that are False throughout, since softmax over no keys is NaN."""
    return mx.logical_or(mask, mx.logical_not(mx.any(mask, axis=-1, keepdims=True)))


def _rms_norm(x: mx.array, weight: Any, eps: float, offset: float = 0.0) -> mx.array:
    """Return x / sqrt(mean(x^2) + eps) * (weight + offset)."""
    return mx.fast.rms_norm(x, weight if weight is None or not offset else weight + offset, eps)


def _rope(x: mx.array, periods: mx.array, interleaved: bool = False) -> mx.array:
    """Apply rotary position embeddings to x (B, H, L, K) at positions 0, 1, ...; periods has the shape (K / 2,)."""
    known = np.array(periods.astype(mx.float32).reshape(x.shape[-1] // 2))
    return counted_rotation(known, x.shape[-2], interleaved)(x)


def _linears(x: mx.array, weight: Any, bias: Any, sizes: Sequence[int]) -> list[mx.array]:
    """Apply one linear layer in place of several that read the same x (fused_linear.py), and split its output."""
    joined = linear(x, weight, bias)
    return list(mx.split(joined, split_ends(sizes, joined.shape[-1]), axis=-1))


def _all_rows(x: mx.array, mask: mx.array) -> mx.array:
    """Return all rows of x (B, ...), of which a mask (B,) picks some; the others are dropped when they are put back."""
    if mask.ndim != 1:
        raise UnsupportedModelError(
            f"the graph picks elements by a mask of {mask.ndim} axes, expected a mask of rows. "
            "Use transformers on torch for this model."
        )
    return x


FUSED: dict[str, Callable[..., Any]] = {
    "bridge.all_rows": _all_rows,
    "bridge.open_rows": _unmask_empty_rows,
    "bridge.rms_norm": _rms_norm,
    "bridge.rope": _rope,
    "bridge.linears": _linears,
    "bridge.attention": attention,
}
