"""Half precision as GPUs compute it: products are added up in float32 and rounded once.

MLX's CPU backend adds them up in half precision, which is less exact than any GPU.
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
