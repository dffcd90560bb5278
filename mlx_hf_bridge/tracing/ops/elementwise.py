"""Elementwise operations."""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.activations import ACTIVATIONS, gelu, gelu_tanh, silu
from mlx_hf_bridge.layers.trigonometry import cos, sin
from mlx_hf_bridge.tracing.ops.dtypes import DTYPES, is_float, promote_to_float


def _binary(function: Callable[[Any, Any], mx.array]) -> Callable[..., mx.array]:
    def operation(x: Any, y: Any) -> mx.array:
        return function(x, y)

    return operation


def _add(x: Any, y: Any, alpha: float = 1) -> mx.array:
    return mx.add(x, y if alpha == 1 else y * alpha)


def _subtract(x: Any, y: Any, alpha: float = 1) -> mx.array:
    return mx.subtract(x, y if alpha == 1 else y * alpha)


def _divide(x: Any, y: Any, rounding_mode: str | None = None) -> mx.array:
    if rounding_mode == "floor":
        return _floor_divide(x, y)
    quotient = mx.divide(x, y)
    if rounding_mode == "trunc":
        # MLX has no trunc; rounding towards 0 is ceil below 0 and floor above.
        whole = mx.where(quotient < 0, mx.ceil(quotient), mx.floor(quotient))
        return whole if is_float(x) or is_float(y) else whole.astype(mx.int64)
    return quotient


def _may_be_minus_one(x: Any, y: Any) -> bool:
    """Return whether an integer is divided by -1, for which processors end the process if it is the smallest one."""
    if isinstance(y, mx.array):
        return bool(mx.issubdtype(y.dtype, mx.signedinteger)) and not is_float(x)
    return bool(y == -1) and not is_float(x)


def _floor_divide(x: Any, y: Any) -> mx.array:
    if not _may_be_minus_one(x, y):
        return mx.floor_divide(x, y)
    return mx.where(y == -1, -x, mx.floor_divide(x, mx.where(y == -1, 1, y)))


def _remainder(x: Any, y: Any) -> mx.array:
    # Every integer is a multiple of 1 and of -1.
    return mx.remainder(x, mx.where(y == -1, 1, y) if _may_be_minus_one(x, y) else y)


def _logical(function: Callable[..., mx.array], bits: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def operation(x: mx.array, y: Any) -> mx.array:
        is_boolean = x.dtype == mx.bool_
        # torch's & and | are logical for booleans and bitwise for integers; MLX has separate functions.
        return function(x, y) if is_boolean else bits(x, y)

    return operation


def _invert(x: mx.array) -> mx.array:
    return mx.logical_not(x) if x.dtype == mx.bool_ else mx.bitwise_invert(x)


def _cast(x: mx.array, dtype: str | None = None, **unused: Any) -> mx.array:
    return x if dtype is None else x.astype(DTYPES[dtype])


def _like(x: mx.array, other: mx.array) -> mx.array:
    return x.astype(other.dtype)


def _clamp(x: mx.array, least: Any = None, most: Any = None) -> mx.array:
    x = x if least is None else mx.maximum(x, least)
    return x if most is None else mx.minimum(x, most)


def _gelu(x: mx.array, approximate: str = "none") -> mx.array:
    # The same functions as in native models, fast ones on CPUs included.
    return gelu_tanh(x) if approximate == "tanh" else gelu(x)


def _where(condition: mx.array, x: Any = 1, y: Any = 0) -> mx.array:
    return mx.where(condition, x, y)


def _masked_fill(x: mx.array, mask: mx.array, value: Any) -> mx.array:
    return mx.where(mask, mx.array(value, x.dtype) if isinstance(value, (int, float)) else value.astype(x.dtype), x)


def _power(x: Any, exponent: Any) -> mx.array:
    """Compute squares and cubes by multiplication, which is exact where MLX's power goes through logarithms."""
    if isinstance(x, mx.array) and exponent in (2, 2.0):
        return x * x
    if isinstance(x, mx.array) and exponent in (3, 3.0):
        return x * x * x
    return mx.power(x, exponent)


def _real(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    return lambda x: function(promote_to_float(x))


def _hard_sigmoid(x: mx.array) -> mx.array:
    return mx.clip(x / 6 + 0.5, 0, 1)


ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "_to_copy": _cast,
    "type_as": _like,
    "gelu": _gelu,
    "erf": _real(mx.erf),
    "neg": lambda x: -x,
    "abs": mx.abs,
    "sign": mx.sign,
    "sgn": mx.sign,
    "floor": mx.floor,
    "ceil": mx.ceil,
    "round": mx.round,
    "trunc": lambda x: mx.where(x < 0, mx.ceil(x), mx.floor(x)),
    "relu": nn.relu,
    "relu6": nn.relu6,
    "silu": silu,
    "mish": nn.mish,
    "softplus": lambda x, beta=1, threshold=20: nn.softplus(x * beta) / beta,
    "elu": lambda x, alpha=1.0, scale=1, input_scale=1: nn.elu(x, alpha),
    "leaky_relu": lambda x, slope=0.01: nn.leaky_relu(x, slope),
    "hardtanh": lambda x, least=-1.0, most=1.0: mx.clip(x, least, most),
    "hardsigmoid": _hard_sigmoid,
    "hardswish": lambda x: x * _hard_sigmoid(x),
    "sigmoid": _real(ACTIVATIONS["sigmoid"]),
    "tanh": _real(ACTIVATIONS["tanh"]),
    "exp": _real(mx.exp),
    "expm1": _real(mx.expm1),
    "log": _real(mx.log),
    "log2": _real(mx.log2),
    "log1p": _real(mx.log1p),
    "sqrt": _real(mx.sqrt),
    "rsqrt": _real(mx.rsqrt),
    "reciprocal": lambda x: 1 / promote_to_float(x),
    "sin": _real(sin),
    "cos": _real(cos),
    "tan": _real(mx.tan),
    "asin": _real(mx.arcsin),
    "acos": _real(mx.arccos),
    "atan": _real(mx.arctan),
    "sinh": _real(mx.sinh),
    "cosh": _real(mx.cosh),
    "square": lambda x: x * x,
    "logical_not": mx.logical_not,
    "bitwise_not": _invert,
    "isnan": mx.isnan,
    "isinf": mx.isinf,
    "isfinite": mx.isfinite,
    "nan_to_num": lambda x, nan=0.0, posinf=None, neginf=None: mx.nan_to_num(x, nan or 0.0, posinf, neginf),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp.Tensor": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda x, most: mx.minimum(x, most),
    "where.self": _where,
    "where.ScalarOther": _where,
    "where.ScalarSelf": _where,
    "where.Scalar": _where,
    "masked_fill.Scalar": _masked_fill,
    "masked_fill.Tensor": _masked_fill,
    "div.Tensor_mode": _divide,
    "div.Scalar_mode": _divide,
    "rsub.Scalar": lambda x, y, alpha=1: y - x * alpha,
    "rsub.Tensor": lambda x, y, alpha=1: y - x * alpha,
    "pow.Tensor_Scalar": _power,
    "pow.Tensor_Tensor": _power,
    "pow.Scalar": _power,
    "maximum": mx.maximum,
    "minimum": mx.minimum,
    "max.other": mx.maximum,
    "min.other": mx.minimum,
    "atan2": mx.arctan2,
    "logaddexp": mx.logaddexp,
    "lerp.Scalar": lambda x, y, weight: x + (y - x) * weight,
    "addcmul": lambda x, y, z, value=1: x + y * z * value,
    "addcdiv": lambda x, y, z, value=1: x + y / z * value,
    "deg2rad": lambda x: x * (math.pi / 180),
}
_BOTH: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "subtract": _subtract,
    "mul": _binary(mx.multiply),
    "multiply": _binary(mx.multiply),
    "div": _divide,
    "divide": _divide,
    "true_divide": _divide,
    "remainder": _binary(_remainder),
    "eq": _binary(mx.equal),
    "ne": _binary(mx.not_equal),
    "lt": _binary(mx.less),
    "le": _binary(mx.less_equal),
    "gt": _binary(mx.greater),
    "ge": _binary(mx.greater_equal),
    "greater": _binary(mx.greater),
    "less": _binary(mx.less),
    "bitwise_and": _logical(mx.logical_and, mx.bitwise_and),
    "bitwise_or": _logical(mx.logical_or, mx.bitwise_or),
    "bitwise_xor": _logical(mx.not_equal, mx.bitwise_xor),
    "__and__": _logical(mx.logical_and, mx.bitwise_and),
    "__or__": _logical(mx.logical_or, mx.bitwise_or),
    "__xor__": _logical(mx.not_equal, mx.bitwise_xor),
}
ELEMENTWISE |= {f"{name}.{kind}": function for name, function in _BOTH.items() for kind in ("Tensor", "Scalar")}
ELEMENTWISE |= {
    "floor_divide": _floor_divide,
    "floor_divide.Scalar": _floor_divide,
    "logical_and": mx.logical_and,
    "logical_or": mx.logical_or,
    "logical_xor": _binary(lambda x, y: mx.not_equal(x != 0, y != 0)),
}
