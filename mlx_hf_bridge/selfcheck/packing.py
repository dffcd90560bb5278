"""Quantized matmuls of every format and number of rows on the device, against float64 products of the same weights."""

from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.layers.linear import Linear, QuantizedLinear
from mlx_hf_bridge.runtime.device import activation_dtype
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.selfcheck.check import BOUNDS, Check, bounded, guarded, on_cpu, on_device, relative_error, worst

GROUP = "quantized matmuls"
# (mode, bits, group size)
FORMATS = [
    *(("affine", bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)),
    *(("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)),
]
_ROWS = (1, 7, 8, 64)
_INPUTS, _OUTPUTS = 256, 384


def label_of(mode: str, bits: int, group: int) -> str:
    """Return a format in words.

    Args:
        mode: A mode of mx.quantize.
        bits: Bits of a weight.
        group: Weights that share a scale.

    Returns:
        Such as "affine, 4 bits in groups of 64".
    """
    return f"{mode}, {bits} bits in groups of {group}"


def check_packings() -> Iterator[Check]:
    """Compare quantized matmuls of 1 to 64 rows with products in float64.

    Yields:
        One check for each format.
    """
    for mode, bits, group in FORMATS:
        label = label_of(mode, bits, group)
        yield guarded(GROUP, label, partial(_check, mode, bits, group, label))


def _check(mode: str, bits: int, group: int, label: str) -> Check:
    random = np.random.default_rng(bits)
    linear = Linear(_INPUTS, _OUTPUTS, bias=False)
    linear.weight = mx.array(random.normal(0, 0.1, (_OUTPUTS, _INPUTS)).astype(np.float32))
    dtype = activation_dtype(mx.float16)

    def quantize() -> QuantizedLinear:
        layer = linear.to_quantized(group, bits, mode)
        # As they are stored; the scales of the floating-point modes are integer codes.
        layer.scales, biases = layer.scales_as(mx.float16)
        if biases is not None:
            layer.biases = biases
        mx.eval(layer.parameters())
        return layer

    layer = run(quantize)
    weight = on_cpu(lambda: layer.dequantize(mx.float32))
    errors = []
    for rows in _ROWS:
        x = mx.array(random.normal(size=(rows, _INPUTS)).astype(np.float32))
        actual = on_device(partial(_matmul, layer, x, dtype))
        expected = on_cpu(partial(_rounded, x, dtype)).astype(np.float64) @ weight.astype(np.float64).T
        errors.append(relative_error(actual, expected))
    return bounded(GROUP, label, worst(errors), BOUNDS[dtype])


def _matmul(layer: QuantizedLinear, x: mx.array, dtype: mx.Dtype) -> mx.array:
    return layer(x.astype(dtype))


def _rounded(x: mx.array, dtype: mx.Dtype) -> mx.array:
    return x.astype(dtype)
