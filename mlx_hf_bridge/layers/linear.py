"""Products and look-ups whose weights are float or packed in MLX's low-bit storage.

I inputs, O outputs, V rows of a table, D its width.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.device import unpacks_weights


def _pack(weight: mx.array, group_size: int, bits: int, mode: str) -> tuple[mx.array, mx.array, mx.array | None]:
    packed, scales, *biases = mx.quantize(weight, group_size=group_size, bits=bits, mode=mode)
    return packed, scales, biases[0] if biases else None


class Packed(nn.Module):
    """Weights in MLX's low-bit storage: `weight` uint32, `scales`, and in affine mode `biases`."""

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, packed_biases = _pack(weight, group_size, bits, mode)
        if packed_biases is not None:
            self.biases = packed_biases

    def scales_as(self, dtype: mx.Dtype) -> tuple[mx.array, mx.array | None]:
        """Affine scales and biases in the activations' dtype; those of the fp modes are codes and stay as they are."""
        if self.mode != "affine":
            return self.scales, None
        return self.scales.astype(dtype), self.biases.astype(dtype)

    def unpack(self, dtype: mx.Dtype, rows: mx.array | None = None) -> mx.array:
        """The float weights, or those rows of them."""
        weight, (scales, biases) = self.weight, self.scales_as(dtype)
        if rows is not None:
            weight, scales, biases = weight[rows], scales[rows], None if biases is None else biases[rows]
        return mx.dequantize(
            weight, scales, biases, group_size=self.group_size, bits=self.bits, mode=self.mode, dtype=dtype
        )

    def product(self, x: mx.array) -> mx.array:
        """x (..., I) -> x @ weights.T (..., O), by whichever way is faster for that many rows."""
        if unpacks_weights(x.size // x.shape[-1]):
            return x @ self.unpack(x.dtype).T
        scales, biases = self.scales_as(x.dtype)
        return mx.quantized_matmul(
            x, self.weight, scales, biases, transpose=True, group_size=self.group_size, bits=self.bits, mode=self.mode
        )


class Linear(nn.Module):
    """x (..., I) -> x @ weight.T + bias (..., O); weight (O, I)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = mx.zeros((outputs, inputs))
        if bias:
            self.bias = mx.zeros((outputs,))

    def __call__(self, x: mx.array) -> mx.array:
        if "bias" in self:
            return mx.addmm(self.bias, x, self.weight.T)
        return x @ self.weight.T

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "PackedLinear":
        """The same product with packed weights."""
        return PackedLinear(self.weight, self.get("bias"), group_size, bits, mode)


class PackedLinear(Packed):
    """x (..., I) -> (..., O) with packed weights."""

    def __init__(self, weight: mx.array, bias: mx.array | None, group_size: int, bits: int, mode: str) -> None:
        super().__init__(weight, group_size, bits, mode)
        if bias is not None:
            self.bias = bias

    def __call__(self, x: mx.array) -> mx.array:
        product = self.product(x)
        return product + self.bias if "bias" in self else product


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

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "PackedEmbedding":
        """The same look-up with a packed table."""
        return PackedEmbedding(self.weight, group_size, bits, mode)


class PackedEmbedding(Packed):
    """ids (...) -> rows (..., D); only the rows that are asked for are unpacked."""

    def __init__(self, weight: mx.array, group_size: int, bits: int, mode: str) -> None:
        super().__init__(weight, group_size, bits, mode)
        self.dtype = mx.float32

    def __call__(self, ids: mx.array) -> mx.array:
        return self.unpack(self.dtype, ids)

    def scores(self, x: mx.array) -> mx.array:
        """x (..., D) -> its product with every row (..., V)."""
        return self.product(x)
