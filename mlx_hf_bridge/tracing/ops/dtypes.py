"""torch's dtypes by name, as a graph spells them, and MLX's."""

from typing import Any

import mlx.core as mx

# MLX computes in float64 on CPUs alone; a constant of that dtype is a Python number that torch widened.
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


def mlx_dtype(name: str | None, otherwise: mx.Dtype) -> mx.Dtype:
    return otherwise if name is None else DTYPES[name]


def is_float(x: Any) -> bool:
    return isinstance(x, mx.array) and bool(mx.issubdtype(x.dtype, mx.floating))


def promote_to_int(x: mx.array) -> mx.array:
    """Truth values as numbers, which is how torch sums them."""
    return x if is_float(x) else x.astype(mx.int64)


def promote_to_float(x: mx.array) -> mx.array:
    """Whole numbers as floats, which is what torch's functions of real numbers give."""
    return x if is_float(x) else x.astype(mx.float32)
