"""torch's dtypes by name, as a graph spells them, and those of MLX."""

from typing import Any

import mlx.core as mx

# MLX computes in float64 on CPUs only; a constant of that dtype is a Python number that torch widened.
DTYPES: dict[str, mx.Dtype] = {
    "float64": mx.float32,
    "float32": mx.float32,
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "int64": mx.int64,
    "int32": mx.int32,
    "int16": mx.int16,
    "int8": mx.int8,
    "uint8": mx.uint8,
    "bool": mx.bool_,
}


def mlx_dtype(name: str | None, default: mx.Dtype) -> mx.Dtype:
    """Return the MLX dtype of a torch name, or a default for None."""
    return default if name is None else DTYPES[name]


def is_float(x: Any) -> bool:
    """Return whether a value is an MLX array of floating-point numbers."""
    return isinstance(x, mx.array) and bool(mx.issubdtype(x.dtype, mx.floating))


def promote_to_int(x: mx.array) -> mx.array:
    """Convert booleans and integers to int64, the dtype in which torch sums them; floats pass unchanged."""
    return x if is_float(x) else x.astype(mx.int64)


def promote_to_float(x: mx.array) -> mx.array:
    """Convert integers to float32, as torch's functions of real numbers do; floats pass unchanged."""
    return x if is_float(x) else x.astype(mx.float32)
