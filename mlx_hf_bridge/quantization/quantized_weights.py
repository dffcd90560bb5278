"""Weights as whole numbers with a scale and a bias a group: what is searched for, and MLX's storage of it.

O outputs, I inputs, G groups, S weights a group (G x S = I).
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_STORED = {mx.float16: np.float16, mx.float32: np.float32}


@dataclass(frozen=True)
class QuantizedWeights:
    """codes (O, I) whole numbers below 2^bits, scales and biases (O, G): weight = code x scale + bias."""

    values: Floats
    scales: Floats
    biases: Floats
    bits: int

    @property
    def group_size(self) -> int:
        return int(self.values.shape[1] // self.scales.shape[1])

    def dequantize(self) -> Floats:
        """The float weights (O, I) that these stand for."""
        outputs, inputs = self.values.shape
        grouped = self.values.reshape(outputs, -1, self.group_size)
        return (grouped * self.scales[..., None] + self.biases[..., None]).reshape(outputs, inputs)

    def pack(self, dtype: mx.Dtype) -> dict[str, mx.array]:
        """`weight`, `scales` and `biases` as mx.quantize's affine mode stores them, the last two in `dtype`."""
        return {
            "weight": mx.array(pack_bits(self.values, self.bits)),
            "scales": mx.array(self.scales).astype(dtype),
            "biases": mx.array(self.biases).astype(dtype),
        }


def pack_bits(codes: Floats, bits: int) -> npt.NDArray[np.uint32]:
    """codes (O, I) -> (O, I x bits / 32): one stream of bits a row, least significant first, as mx.quantize packs."""
    planes = np.unpackbits(codes.astype(np.uint8)[..., None], axis=-1, bitorder="little", count=bits)
    stream = np.packbits(planes.reshape(len(codes), -1), axis=-1, bitorder="little")
    return np.ascontiguousarray(stream).view("<u4").astype(np.uint32)


def round_trip(values: Floats, dtype: mx.Dtype) -> Floats:
    """The values after a trip through the dtype that they are stored in."""
    if dtype in _STORED:
        return values.astype(_STORED[dtype]).astype(np.float32)
    return np.array(mx.array(values).astype(dtype).astype(mx.float32))
