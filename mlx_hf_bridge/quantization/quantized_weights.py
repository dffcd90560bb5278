"""Weights as small integers with a scale and a bias for each group, and MLX's packed storage of them.

O outputs, I inputs, G groups of a row, S weights of a group (G x S = I).
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_NUMPY_DTYPES = {mx.float16: np.float16, mx.float32: np.float32}


@dataclass(frozen=True)
class QuantizedWeights:
    """A quantized weight matrix: weight = value x scale + bias.

    Attributes:
        values: Integers from 0 to 2^bits - 1, stored as float32, of shape (O, I).
        scales: Shape (O, G).
        biases: Shape (O, G).
        bits: Bits of a value.
    """

    values: Floats
    scales: Floats
    biases: Floats
    bits: int

    @property
    def group_size(self) -> int:
        """How many weights share a scale."""
        return int(self.values.shape[1] // self.scales.shape[1])

    def dequantize(self) -> Floats:
        """Return the float weights (O, I) that these stand for."""
        outputs, inputs = self.values.shape
        grouped = self.values.reshape(outputs, -1, self.group_size)
        return (grouped * self.scales[..., None] + self.biases[..., None]).reshape(outputs, inputs)

    def pack(self, dtype: mx.Dtype) -> dict[str, mx.array]:
        """Return `weight`, `scales` and `biases` as mx.quantize's affine mode stores them, the last two in `dtype`."""
        return {
            "weight": mx.array(pack_bits(self.values, self.bits)),
            "scales": mx.array(self.scales).astype(dtype),
            "biases": mx.array(self.biases).astype(dtype),
        }


def pack_bits(values: Floats, bits: int) -> npt.NDArray[np.uint32]:
    """Pack integers (O, I) into words (O, I x bits / 32), least significant bits first, as mx.quantize does."""
    # Through single bits, since 3, 5 and 6 bits do not divide a byte and values cross byte boundaries.
    planes = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1, bitorder="little", count=bits)
    stream = np.packbits(planes.reshape(len(values), -1), axis=-1, bitorder="little")
    # Little-endian on every machine, as mx.quantize packs.
    return np.ascontiguousarray(stream).view("<u4").astype(np.uint32)


def round_trip(values: Floats, dtype: mx.Dtype) -> Floats:
    """Return the values after a cast to the dtype that they are stored in and back.

    Rounding has to know the scales that the file will have: float16 moves them by up to 0.05 %, 2^-11.
    """
    # numpy has no bfloat16, so that one goes through MLX.
    if dtype in _NUMPY_DTYPES:
        return values.astype(_NUMPY_DTYPES[dtype]).astype(np.float32)
    return np.array(mx.array(values).astype(dtype).astype(mx.float32))
