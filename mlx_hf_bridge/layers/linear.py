"""Linear layers and embedding tables, with float weights or quantized in MLX's low-bit format.

Axes: I inputs, O outputs, V rows of a table (vocabulary), D embedding width, W 32-bit words of a packed row,
N quantization groups of a row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.single_batch import may_use_tiles
from mlx_hf_bridge.layers.small_batch import PackedTiles
from mlx_hf_bridge.runtime.device import (
    KEEPS_DEQUANTIZED,
    SMALL_BATCH_ROWS,
    dequantizes_in_passes,
    dequantizes_weights,
    lacks_cuda_kernel,
)

# A context variable, so that concurrent calls in other threads do not share the cache.
_dequantized_once: ContextVar[dict[tuple[int, mx.Dtype], mx.array] | None] = ContextVar(
    "_dequantized_once", default=None
)


@contextmanager
def dequantizing_once() -> Iterator[None]:
    """Share dequantized weights inside the `with` block: each weight is dequantized once for all matmuls built there.

    Batches that run in parallel use it, so that every stream does not dequantize the same layer again.

    Yields:
        Nothing.
    """
    token = _dequantized_once.set({})
    try:
        yield
    finally:
        _dequantized_once.reset(token)


class QuantizedModule(nn.Module):
    """Weights in MLX's low-bit format: `weight` (uint32), `scales`, and in affine mode `biases`.

    The base of QuantizedLinear and QuantizedEmbedding, which define `__call__`.

    Args:
        weight: Float weights, (O, I) or (V, D); groups run along the last axis.
        group_size: Weights that share a scale.
        bits: Bits of a weight.
        mode: A mode of mx.quantize: "affine", "mxfp4", "mxfp8" or "nvfp4".
    """

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        # The leading underscore keeps it out of the module's parameters.
        self._kept: dict[tuple[int, mx.Dtype], mx.array] = {}
        self.weight, self.scales, biases = _quantize(weight, group_size, bits, mode)
        if biases is not None:
            self.biases = biases

    def scales_as(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array | None]:
        """Return scales and biases in the activations' dtype.

        Args:
            dtype: Dtype of the activations.

        Returns:
            Scales and biases. Those of fp modes are integer codes: they keep their dtype, and biases are None.
        """
        # The floating-point modes pack their scales as bytes, which must not be cast.
        if self.mode != "affine":
            return self.scales, None
        # Stored in half precision, computed in the activations' dtype, so a text's embedding does not depend on its
        # batch.
        return self.scales.astype(dtype), self.biases.astype(dtype)

    def dequantize(self, dtype: mx.Dtype, rows: mx.array | None = None) -> mx.array:
        """Return the weights as floats.

        Args:
            dtype: Dtype of the result.
            rows: Indices of the rows to return, any shape (...); None for all rows.

        Returns:
            Weights of shape (O, I), or (..., I) for `rows`.
        """
        # A lookup reads few rows, so it neither uses nor fills the cache of whole matrices.
        if rows is not None:
            return self._dequantize(dtype, rows)
        dequantized = self._kept if KEEPS_DEQUANTIZED else _dequantized_once.get()
        if dequantized is None:
            return self._dequantize(dtype, None)
        # The id is safe as a key: the cache does not outlive the module (`_kept`) or the `with` block.
        key = id(self), dtype
        if key not in dequantized:
            dequantized[key] = self._dequantize(dtype, None)
            if KEEPS_DEQUANTIZED:
                # It outlives the graph that it was first built for.
                mx.eval(dequantized[key])
        return dequantized[key]

    def dequantizes(self, x: mx.array, transpose: bool = True) -> bool:
        """Return whether a matmul is faster by dequantizing the weights first.

        Args:
            x: (..., I).
            transpose: Whether the weight is transposed for the matmul. Default: True.

        Returns:
            True if it is on this device, for so many rows.
        """
        rows = x.size // x.shape[-1]
        if dequantizes_weights(rows):
            return True
        shape = (self.weight.shape[0], self.scales.shape[-1] * self.group_size)
        return lacks_cuda_kernel(rows, shape, self.group_size, self.bits, x.dtype, transpose)

    def matmul(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """Return x @ weights.T + bias, dequantizing the weights first where that is faster for so many rows.

        Args:
            x: (..., I).
            bias: (O,), or None.

        Returns:
            Array of shape (..., O).
        """
        # All axes but the last are rows of one matmul.
        if self.dequantizes(x):
            weight = self.dequantize(x.dtype).T
            return x @ weight if bias is None else mx.addmm(bias, x, weight)
        scales, biases = self.scales_as(x.dtype)
        result = mx.quantized_matmul(
            x, self.weight, scales, biases, transpose=True, group_size=self.group_size, bits=self.bits, mode=self.mode
        )
        return result if bias is None else result + bias

    def _dequantize(self, dtype: mx.Dtype, rows: mx.array | None) -> mx.array:
        weight, (scales, biases) = self.weight, self.scales_as(dtype)
        if rows is not None:
            weight, scales, biases = weight[rows], scales[rows], None if biases is None else biases[rows]
        if biases is not None and dtype == mx.float32 and dequantizes_in_passes(self.bits):
            return _dequantize_in_passes(weight, scales, biases, self.bits)
        return mx.dequantize(
            weight, scales, biases, group_size=self.group_size, bits=self.bits, mode=self.mode, dtype=dtype
        )


class Linear(nn.Module):
    """A linear layer: x @ weight.T + bias.

    Takes x (..., I) and returns (..., O). The weight has the shape (O, I), as in torch.

    Args:
        inputs: Input width, I.
        outputs: Output width, O.
        bias: Whether there is a bias.
    """

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs))
        if bias:
            self.bias = mx.zeros((outputs,))
        # Not a parameter: a copy of the weights in another order, which must not be saved or counted.
        self._tiles = PackedTiles() if SMALL_BATCH_ROWS else None

    def __call__(self, x: mx.array) -> mx.array:
        if self._tiles is not None and may_use_tiles():
            result = self._tiles.matmul(x, self.weight)
            if result is not None:
                return result + self.bias if "bias" in self else result
        if "bias" in self:
            return mx.addmm(self.bias, x, self.weight.T)
        return x @ self.weight.T

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "QuantizedLinear":
        """Return this layer with quantized weights; mlx.nn.quantize calls it.

        Args:
            group_size: Weights that share a scale.
            bits: Bits of a weight.
            mode: A mode of mx.quantize.

        Returns:
            A QuantizedLinear with this layer's bias.
        """
        return QuantizedLinear(self.weight, self.get("bias"), group_size, bits, mode)


class QuantizedLinear(QuantizedModule):
    """A linear layer with quantized weights.

    Takes x (..., I) and returns (..., O).

    Args:
        weight: Float weights to quantize, (O, I).
        bias: (O,), or None.
        group_size: Weights that share a scale.
        bits: Bits of a weight.
        mode: A mode of mx.quantize.
    """

    def __init__(self, weight: mx.array, bias: mx.array | None, group_size: int, bits: int, mode: str) -> None:
        super().__init__(weight, group_size, bits, mode)
        if bias is not None:
            self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        return self.matmul(x, self.get("bias"))


class Embedding(nn.Module):
    """An embedding table.

    Takes ids (...) and returns rows (..., D) of the weight (V, D).

    Args:
        rows: Number of rows, V.
        width: Embedding width, D.
    """

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, width))

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight[ids]

    def scores(self, x: mx.array) -> mx.array:
        """Return the dot product with every row, for heads that are tied to the table.

        Args:
            x: (..., D).

        Returns:
            Array of shape (..., V).
        """
        return x @ self.weight.T

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "QuantizedEmbedding":
        """Return this table with quantized rows; mlx.nn.quantize calls it.

        Args:
            group_size: Weights that share a scale.
            bits: Bits of a weight.
            mode: A mode of mx.quantize.

        Returns:
            A QuantizedEmbedding.
        """
        return QuantizedEmbedding(self.weight, group_size, bits, mode)


class QuantizedEmbedding(QuantizedModule):
    """An embedding table with quantized rows; only the rows that are looked up are dequantized.

    Takes ids (...) and returns rows (..., D) in the dtype of the attribute `dtype`.

    Args:
        weight: Float table to quantize, (V, D).
        group_size: Weights that share a scale.
        bits: Bits of a weight.
        mode: A mode of mx.quantize.
    """

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__(weight, group_size, bits, mode)
        # The activations' dtype; a lookup has no float input that it could be taken from. Loading sets it.
        self.dtype = mx.float32

    def __call__(self, ids: mx.array) -> mx.array:
        return self.dequantize(self.dtype, ids)

    def scores(self, x: mx.array) -> mx.array:
        """Return the dot product with every row, for heads that are tied to the table.

        Args:
            x: (..., D).

        Returns:
            Array of shape (..., V).
        """
        return self.matmul(x)


def _quantize(weight: mx.array, group_size: int, bits: int, mode: str) -> tuple[mx.array, mx.array, mx.array | None]:
    weight, scales, *biases = mx.quantize(weight, group_size=group_size, bits=bits, mode=mode)
    return weight, scales, biases[0] if biases else None


def _dequantize_in_passes(weight: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    """Return weights (..., W), uint32, with scales and biases (..., N) as float32 (..., I).

    Each step passes over a whole array, which is faster on CPUs than the loop in mx.dequantize.
    """
    # A byte is one 8-bit value or two of 4 bits. Passes over whole arrays are faster on a CPU than mx.dequantize.
    values = weight.view(mx.uint8)
    if bits == 4:
        # The lower four bits of a byte hold the earlier weight.
        values = mx.stack([mx.bitwise_and(values, 15), mx.right_shift(values, 4)], axis=-1)
    groups = values.reshape(*scales.shape, -1).astype(mx.float32)
    return (groups * scales[..., None] + biases[..., None]).reshape(*weight.shape[:-1], -1)
