"""Arrays of MLX, numpy and torch: taken in any kind, answered in the same."""

from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.errors import ArgumentTypeError


def kind_of(array: Any) -> str:
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
    if kind_of(array) == "torch":
        return np.asarray(array.detach().cpu().numpy())
    return np.array(array) if isinstance(array, mx.array) else np.asarray(array)


def in_kind(result: mx.array, like: Any) -> Any:
    """An evaluated MLX array in the kind (and, for torch, on the device) of `like`."""
    kind = kind_of(like)
    if kind == "mlx":
        return result
    widened = result.astype(mx.float32) if result.dtype == mx.bfloat16 else result
    array = np.array(widened)
    if kind == "numpy":
        return array
    import torch

    tensor = torch.from_numpy(array).to(like.device)
    return tensor.to(torch.bfloat16) if result.dtype == mx.bfloat16 else tensor
