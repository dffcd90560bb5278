"""Convert between MLX, numpy and torch arrays: inputs of any type, outputs of the same type."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.runtime.executor import run


def array_type(array: Any) -> str:
    """Return which library an array belongs to.

    Args:
        array: An MLX, numpy or torch array, or nested lists of numbers.

    Returns:
        "mlx", "numpy" or "torch"; nested lists count as "mlx".

    Raises:
        ArgumentTypeError: If it is anything else.
    """
    # Nested lists count as MLX: their outputs are MLX arrays.
    if isinstance(array, (mx.array, list, tuple)):
        return "mlx"
    if isinstance(array, np.ndarray):
        return "numpy"
    # By the module's name, so that torch need not be imported.
    if type(array).__module__.split(".")[0] == "torch":
        return "torch"
    raise ArgumentTypeError(f"got a {type(array).__name__}, expected an mlx, numpy or torch array, or nested lists.")


def to_numpy(array: Any) -> np.ndarray:
    """Convert an array of any type to numpy, without a copy where possible.

    Args:
        array: An MLX, numpy or torch array, or nested lists of numbers.

    Returns:
        The numpy array; float32 for bfloat16.
    """
    # numpy has no bfloat16; every value of it is one of float32.
    if array_type(array) == "torch":
        array = array.detach().cpu()
        return np.asarray((array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy())
    if isinstance(array, mx.array):
        return np.array(run(lambda: array.astype(mx.float32)) if array.dtype == mx.bfloat16 else array)
    return np.asarray(array)


def to_array(name: str, given: Any) -> np.ndarray:
    """Convert an argument to numpy.

    Args:
        name: The argument's name, for error messages.
        given: An array of any type, or nested lists.

    Returns:
        The numpy array, of any shape and dtype.

    Raises:
        InputError: If nested lists have rows of different lengths.
    """
    try:
        return to_numpy(given)
    # What numpy raises for nested lists of different lengths.
    except ValueError as error:
        raise InputError(f"{name} has rows of different lengths. Pad them to one, and pass attention_mask.") from error


def to_integers(name: str, given: Any) -> np.ndarray:
    """Convert an argument of integers (ids, token type ids, positions) to numpy.

    Args:
        name: The argument's name, for error messages.
        given: An array of any type, or nested lists.

    Returns:
        A numpy array of an integer or boolean dtype.

    Raises:
        InputError: If nested lists have rows of different lengths.
        ArgumentTypeError: If the numbers are not integers.
    """
    array = to_array(name, given)
    if array.size and array.dtype.kind not in "iub":
        raise ArgumentTypeError(
            f"{name} has the dtype {array.dtype}, expected integers. Pass them as a tokenizer returns them."
        )
    return array


def match_array_type(result: mx.array, like: Any) -> Any:
    """Convert an evaluated MLX array to the array type of the input.

    Args:
        result: The array, evaluated.
        like: The input whose type decides; for a torch tensor its device too.

    Returns:
        An mx.array, numpy array or torch tensor. numpy has no bfloat16, so that becomes float32 there.
    """
    kind = array_type(like)
    if kind == "mlx":
        return result
    if kind == "torch":
        return _to_torch(result, like.device)
    # numpy has no bfloat16.
    return np.array(run(lambda: result.astype(mx.float32)) if result.dtype == mx.bfloat16 else result)


def _to_torch(result: mx.array, device: Any) -> Any:
    """Convert without a copy on the CPU, whose memory MLX shares."""
    import torch

    if result.dtype != mx.bfloat16:
        return torch.from_numpy(np.array(result, copy=False)).to(device)
    # numpy has no bfloat16: the bits travel as uint16, and torch reads them as bfloat16 again.
    bits = run(lambda: result.view(mx.uint16))
    return torch.from_numpy(np.array(bits, copy=False)).view(torch.bfloat16).to(device)
