"""Products and look-ups whose weights are float or packed in MLX's low-bit storage.

I inputs, O outputs, V rows of a table, D its width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.single_batch import in_single_batch_mode
from mlx_hf_bridge.layers.small_batch import PackedTiles
from mlx_hf_bridge.runtime.device import KEEPS_DEQUANTIZED, SMALL_BATCH_ROWS, dequantizes_in_passes, dequantizes_weights


def _pack(weight: mx.array, group_size: int, bits: int, mode: str) -> tuple[mx.array, mx.array, mx.array | None]:
    packed, scales, *biases = mx.quantize(weight, group_size=group_size, bits=bits, mode=mode)
    return packed, scales, biases[0] if biases else None


_unpacked_once: ContextVar[dict[tuple[int, mx.Dtype], mx.array] | None] = ContextVar("_unpacked_once", default=None)


@contextmanager
def dequantizing_once() -> Iterator[None]:
    """Within the block every packed weight is unpacked once, for all products that are built there."""
    token = _unpacked_once.set({})
    try:
        yield
    finally:
        _unpacked_once.reset(token)


def _unpacked_by_parts(weight: mx.array, scales: mx.array, biases: mx.array, bits: int) -> mx.array:
    """weight (..., W) uint32, scales and biases (..., N) -> float32 (..., I), in passes over whole arrays."""
    codes = weight.view(mx.uint8)
    if bits == 4:
        codes = mx.stack([mx.bitwise_and(codes, 15), mx.right_shift(codes, 4)], axis=-1)
    groups = codes.reshape(*scales.shape, -1).astype(mx.float32)
    values = groups * scales[..., None] + biases[..., None]
    return values.reshape(*weight.shape[:-1], -1)


class QuantizedModule(nn.Module):
    """Weights in MLX's low-bit storage: `weight` uint32, `scales`, and in affine mode `biases`."""

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self._kept: dict[tuple[int, mx.Dtype], mx.array] = {}
        self.weight, self.scales, packed_biases = _pack(weight, group_size, bits, mode)
        if packed_biases is not None:
            self.biases = packed_biases

    def scales_as(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array | None]:
        """Affine scales and biases in the activations' dtype; those of the fp modes are codes and stay as they are."""
        if self.mode != "affine":
            return self.scales, None
        return self.scales.astype(dtype), self.biases.astype(dtype)

    def dequantize(self, dtype: mx.Dtype, rows: mx.array | None = None) -> mx.array:
        """The float weights, or those rows of them."""
        if rows is not None:
            return self._unpacked(dtype, rows)
        unpacked = self._kept if KEEPS_DEQUANTIZED else _unpacked_once.get()
        if unpacked is None:
            return self._unpacked(dtype, None)
        key = id(self), dtype
        if key not in unpacked:
            unpacked[key] = self._unpacked(dtype, None)
            if KEEPS_DEQUANTIZED:
                mx.eval(unpacked[key])
        return unpacked[key]

    def _unpacked(self, dtype: mx.Dtype, rows: mx.array | None) -> mx.array:
        weight, (scales, biases) = self.weight, self.scales_as(dtype)
        if rows is not None:
            weight, scales, biases = weight[rows], scales[rows], None if biases is None else biases[rows]
        if biases is not None and dtype == mx.float32 and dequantizes_in_passes(self.bits):
            return _unpacked_by_parts(weight, scales, biases, self.bits)
        return mx.dequantize(
            weight, scales, biases, group_size=self.group_size, bits=self.bits, mode=self.mode, dtype=dtype
        )

    def matmul(self, x: mx.array, bias: mx.array | None = None) -> mx.array:
        """x (..., I) -> x @ weights.T + bias (..., O), by whichever way is faster for that many rows."""
        if dequantizes_weights(x.size // x.shape[-1]):
            weight = self.dequantize(x.dtype).T
            return x @ weight if bias is None else mx.addmm(bias, x, weight)
        scales, biases = self.scales_as(x.dtype)
        product = mx.quantized_matmul(
            x, self.weight, scales, biases, transpose=True, group_size=self.group_size, bits=self.bits, mode=self.mode
        )
        return product if bias is None else product + bias


class Linear(nn.Module):
    """x (..., I) -> x @ weight.T + bias (..., O); weight (O, I)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs))
        if bias:
            self.bias = mx.zeros((outputs,))
        self._blocks = PackedTiles() if SMALL_BATCH_ROWS else None

    def __call__(self, x: mx.array) -> mx.array:
        if self._blocks is not None and in_single_batch_mode():
            product = self._blocks.matmul(x, self.weight)
            if product is not None:
                return product + self.bias if "bias" in self else product
        if "bias" in self:
            return mx.addmm(self.bias, x, self.weight.T)
        return x @ self.weight.T

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "QuantizedLinear":
        """The same product with packed weights."""
        return QuantizedLinear(self.weight, self.get("bias"), group_size, bits, mode)


class QuantizedLinear(QuantizedModule):
    """x (..., I) -> (..., O) with packed weights."""

    def __init__(self, weight: mx.array, bias: mx.array | None, group_size: int, bits: int, mode: str) -> None:
        super().__init__(weight, group_size, bits, mode)
        if bias is not None:
            self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        return self.matmul(x, self.get("bias"))


class Embedding(nn.Module):
    """ids (...) -> rows (..., D) of weight (V, D)."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = mx.zeros((rows, width))

    def __call__(self, ids: mx.array) -> mx.array:
        return self.weight[ids]

    def scores(self, x: mx.array) -> mx.array:
        """x (..., D) -> its product with every row (..., V)."""
        return x @ self.weight.T

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "QuantizedEmbedding":
        """The same look-up with a packed table."""
        return QuantizedEmbedding(self.weight, group_size, bits, mode)


class QuantizedEmbedding(QuantizedModule):
    """ids (...) -> rows (..., D); only the rows that are asked for are unpacked."""

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__(weight, group_size, bits, mode)
        self.dtype = mx.float32

    def __call__(self, ids: mx.array) -> mx.array:
        return self.dequantize(self.dtype, ids)

    def scores(self, x: mx.array) -> mx.array:
        """x (..., D) -> its product with every row (..., V)."""
        return self.matmul(x)
