"""Count, measure and cast a loaded model's parameters."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_hf_bridge.checkpoints.dtypes import parse_dtype
from mlx_hf_bridge.errors import ArgumentTypeError
from mlx_hf_bridge.inference.model import Model, set_activation_dtype
from mlx_hf_bridge.layers.linear import Embedding, QuantizedEmbedding, QuantizedModule
from mlx_hf_bridge.runtime.device import activation_dtype
from mlx_hf_bridge.weights.name_mapping import KEEP_FILE_DTYPE

_PACKED = ("weight", "scales", "biases")
_FLOATS = (mx.float32, mx.float16, mx.bfloat16)


def count_parameters(model: nn.Module, with_embeddings: bool = True) -> int:
    """Return the number of parameters; quantized weights count as the numbers that they stand for.

    Args:
        model: The module.
        with_embeddings: Whether to count embedding tables, which transformers' `exclude_embeddings` leaves out.

    Returns:
        The number of parameters; buffers such as rotary frequencies are not counted.
    """
    total = sum(array.size for name, array in _flat(model) if name.rpartition(".")[2] not in KEEP_FILE_DTYPE)
    for _, module in model.named_modules():
        if isinstance(module, QuantizedModule):
            # Packed words are taken out, and the numbers that they stand for put in.
            total += _unpacked_size(module) - sum(module[name].size for name in _PACKED if name in module)
        if not with_embeddings and isinstance(module, (Embedding, QuantizedEmbedding)):
            total -= _unpacked_size(module)
    return total


def _unpacked_size(module: nn.Module) -> int:
    """Return how many numbers a module's weight holds, before quantization."""
    if isinstance(module, QuantizedModule):
        return int(module.weight.nbytes) * 8 // module.bits  # `bits` bits a number, packed into uint32
    return int(module.weight.size)


def _flat(model: nn.Module) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(model.parameters())
    return list(flat)


def memory_footprint(model: nn.Module) -> int:
    """Return the size of the module's arrays in memory.

    Args:
        model: The module.

    Returns:
        The size in bytes.
    """
    return sum(array.nbytes for _, array in _flat(model))


def require_float_dtype(given: Any) -> mx.Dtype:
    """Convert a dtype of any library to MLX's, if weights can be stored in it.

    Args:
        given: A dtype of mx, torch or numpy, or its name.

    Returns:
        mx.float32, mx.float16 or mx.bfloat16.

    Raises:
        ArgumentTypeError: If it is None or "auto".
        ConfigError: If it is another dtype.
    """
    if (dtype := parse_dtype(given)) is None:
        raise ArgumentTypeError(f"got the dtype {given!r}, expected float32, float16 or bfloat16.")
    return dtype


def cast_weights(model: Model, dtype: mx.Dtype, in_float32: bool) -> None:
    """Round the weights that are not quantized to a dtype, in place.

    Args:
        model: The model to change.
        dtype: The dtype to round to. What is computed in follows from it and the device: float32 on a CPU.
        in_float32: Whether activations of this model overflow float16, so that they are computed in float32.
    """
    computed = activation_dtype(dtype)
    computed = mx.float32 if computed == mx.float16 and in_float32 else computed
    # Rounded to the dtype, then widened to the one that is computed in: the results are those of a saved and loaded
    # model.
    rounded = [(name, array.astype(dtype).astype(computed)) for name, array in _flat(model) if _is_cast(name, array)]
    model.update(tree_unflatten(rounded))
    set_activation_dtype(model, computed)
    mx.eval(model.parameters())


def _is_cast(name: str, array: mx.array) -> bool:
    return array.dtype in _FLOATS and name.rpartition(".")[2] not in (*_PACKED[1:], *KEEP_FILE_DTYPE)
