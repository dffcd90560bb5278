"""A linear layer whose weight is stored with a row for each input, with float weights or quantized.

Axes: I inputs, O outputs.
"""

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.layers.linear import QuantizedModule


class TransposedLinear(nn.Module):
    """A linear layer without bias and with a weight of shape (I, O), as megablocks stores experts: x @ weight.

    Takes x (..., I) and returns (..., O).

    Args:
        inputs: Input width, I.
        outputs: Output width, O.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = mx.zeros((inputs, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        return x @ self.weight

    def to_quantized(self, group_size: int, bits: int, mode: str = "affine") -> "QuantizedTransposedLinear":
        """Return this layer with quantized weights; mlx.nn.quantize calls it.

        Args:
            group_size: Weights that share a scale.
            bits: Bits of a weight.
            mode: A mode of mx.quantize.

        Returns:
            The quantized layer; its groups run along the outputs.
        """
        return QuantizedTransposedLinear(self.weight, group_size, bits, mode)


class QuantizedTransposedLinear(QuantizedModule):
    """A TransposedLinear with quantized weights, whose groups run along the outputs.

    Takes x (..., I) and returns (..., O). Its arguments are those of QuantizedModule, with weights of shape (I, O).
    """

    def __call__(self, x: mx.array) -> mx.array:
        if self.dequantizes(x, transpose=False):
            return x @ self.dequantize(x.dtype)
        scales, biases = self.scales_as(x.dtype)
        return mx.quantized_matmul(
            x, self.weight, scales, biases, transpose=False, group_size=self.group_size, bits=self.bits, mode=self.mode
        )
