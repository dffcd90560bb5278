"""Arrays of MLX, numpy and torch: taken in any kind, answered in the same."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.runtime.executor import run


def array_type(array: Any) -> str:
    """ "mlx", "torch" or "numpy"; nested lists count as MLX. ArgumentTypeError for anything else."""
    if isinstance(array, (mx.array, list, tuple)):
        return "mlx"
    if isinstance(array, np.ndarray):
        return "numpy"
    if type(array).__module__.split(".")[0] == "torch":
        return "torch"
    raise ArgumentTypeError(f"got a {type(array).__name__}, expected an mlx, numpy or torch array, or nested lists.")


def to_numpy(array: Any) -> np.ndarray:
    """Any kind -> numpy, without a copy where that can be."""
    if array_type(array) == "torch":
        return np.asarray(array.detach().cpu().numpy())
    return np.array(array) if isinstance(array, mx.array) else np.asarray(array)


def to_integers(name: str, given: Any) -> np.ndarray:
    """An argument of ids, segments or places -> numpy; InputError for ragged lists, ArgumentTypeError for others."""
    try:
        array = to_numpy(given)
    except ValueError as error:
        raise InputError(f"{name} has rows of different lengths. Pad them to one, and pass attention_mask.") from error
    if array.size and array.dtype.kind not in "iub":
        raise ArgumentTypeError(
            f"{name} has the dtype {array.dtype}, expected whole numbers. Pass them as a tokenizer gives them."
        )
    return array


def match_array_type(result: mx.array, like: Any) -> Any:
    """An evaluated MLX array in the kind (and, for torch, on the device) of `like`."""
    kind = array_type(like)
    if kind == "mlx":
        return result
    if kind == "torch":
        return _to_torch(result, like.device)
    return np.array(run(lambda: result.astype(mx.float32)) if result.dtype == mx.bfloat16 else result)


def _to_torch(result: mx.array, device: Any) -> Any:
    """Without a copy on the CPU, whose memory MLX shares; numpy has no bfloat16, so its bits go as whole numbers."""
    import torch

    if result.dtype != mx.bfloat16:
        return torch.from_numpy(np.array(result, copy=False)).to(device)
    bits = run(lambda: result.view(mx.uint16))
    return torch.from_numpy(np.array(bits, copy=False)).view(torch.bfloat16).to(device)
