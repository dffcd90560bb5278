"""Arithmetic as GPUs do it: half-precision products added up in float32 and rounded once, inexact sines.

MLX's CPU backend adds them up in half precision, which is less exact than any GPU, and computes sines exactly.
"""

import functools
from collections.abc import Callable
from typing import Any

import mlx_hf_bridge  # noqa: F401  loads the BLAS before mlx.core

# isort: split
import mlx.core as mx

_HALF = (mx.float16, mx.bfloat16)


def _wide(value: Any) -> Any:
    return value.astype(mx.float32) if isinstance(value, mx.array) and value.dtype in _HALF else value


def _accumulating_in_float32(function: Callable[..., mx.array], decisive: int = 0) -> Callable[..., mx.array]:
    """Return the function with half-precision arguments widened; the result has the dtype of the decisive one."""

    @functools.wraps(function)
    def rounded(*args: Any, **kwargs: Any) -> mx.array:
        dtype = args[decisive].dtype
        if dtype not in _HALF:
            return function(*args, **kwargs)
        result = function(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        return result.astype(dtype)

    return rounded


def accumulate_in_float32(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Replace MLX's products by ones that accumulate in float32.

    Args:
        replace: Sets an attribute of an object: setattr, or pytest's monkeypatch.setattr, which undoes it later.
    """
    for owner, name, decisive in (
        (mx.array, "__matmul__", 0),
        (mx, "matmul", 0),
        (mx, "addmm", 1),
        (mx, "quantized_matmul", 0),
        (mx.fast, "scaled_dot_product_attention", 0),
    ):
        replace(owner, name, _accumulating_in_float32(getattr(owner, name), decisive))


# What the Metal Shading Language Specification allows its fast functions within half a turn; more beyond.
_SINE_ERROR = 2.0**-13


def make_sines_inexact(replace: Callable[[Any, str, Any], None] = setattr) -> None:
    """Give MLX's sine, cosine and rotary kernel the errors of Metal's fast functions.

    Args:
        replace: Sets an attribute of an object: setattr, or pytest's monkeypatch.setattr, which undoes it later.
    """

    def inexact(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
        @functools.wraps(function)
        def off(*args: Any, **kwargs: Any) -> mx.array:
            exact = function(*args, **kwargs)
            # Signs without order, since an error that all share would not change an attention's weights.
            signs = mx.where(mx.floor(exact * 2.0**12) % 2 == 0, 1, -1)
            return exact + (signs * _SINE_ERROR).astype(exact.dtype)

        return off

    for owner, name in ((mx, "sin"), (mx, "cos"), (mx.fast, "rope")):
        replace(owner, name, inexact(getattr(owner, name)))
