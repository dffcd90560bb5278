"""How much each module's rounding costs the model's outputs: one module at a time, all others in float.

Errors of the outputs are assumed to add up over modules and to grow with the squared error of the weights; both hold
while they are small.
"""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob, select_modules
from mlx_hf_bridge.quantization.distillation import output_distance
from mlx_hf_bridge.quantization.widths import BitWidth

# The width that is measured; errors of other widths follow by the ratio of their squared weight errors.
_PROBE = BitWidth(4, 64)
# Calibration batches that are run for each module. Sensitivities of modules differ by factors, and a few hundred tokens
# show them; more batches cost time in proportion.
_BATCHES = 8
# Rows of a weight matrix whose squared error is measured.
_ROWS = 2048
# About what second-order rounding leaves of plain rounding's error in a linear layer and in the token embedding table.
# Only their ratio matters to the choice of bits: a larger share for the table gives it more bits and the layers fewer.
_LINEAR_SHARE, _TABLE_SHARE = 0.15, 0.65
# Keeps ratios finite for a module that rounds without error.
_TINY = 1e-30


def predict_errors(
    job: CalibrationJob, widths: Iterable[BitWidth], second_order: bool
) -> dict[str, dict[BitWidth, float]]:
    """Predict the error that each module adds to the outputs in each width.

    Args:
        job: The models and calibration batches.
        widths: The widths to predict for.
        second_order: Whether the weights will be rounded by second-order rounding and not by mx.quantize.

    Returns:
        Module path -> width -> predicted error; widths whose group size does not divide the inputs are left out.
    """
    batches = job.calibration_batches
    # Evenly spread over the batches, whatever their order is.
    chosen = batches[:: max(1, len(batches) // _BATCHES)]
    expected = [job.select_output(job.float_model(batch), batch) for batch in chosen]
    mx.eval(expected)
    found: dict[str, dict[BitWidth, float]] = {}
    candidates = list(widths)
    for path, module in select_modules(job.quantized_model, job.widths).items():
        job.on_step(path)
        weight = module.weight
        possible = [width for width in candidates if weight.shape[-1] % width.group_size == 0]
        # 32 is the smallest group that MLX packs in affine mode.
        probe = _PROBE if weight.shape[-1] % _PROBE.group_size == 0 else BitWidth(_PROBE.bits, 32)
        module.weight = _round(weight, probe)
        outputs = [job.select_output(job.quantized_model(batch), batch) for batch in chosen]
        distances = [output_distance(actual, target) for actual, target in zip(outputs, expected, strict=True)]
        error = float(np.array(mx.stack(distances).mean()))
        # Restored before the next module: each is measured with all others in float.
        module.weight = weight
        share = (_LINEAR_SHARE if isinstance(module, Linear) else _TABLE_SHARE) if second_order else 1.0
        base = _squared_error(module, probe)
        found[path] = {width: share * error * _squared_error(module, width) / base for width in possible}
    return found


def _round(weight: mx.array, width: BitWidth) -> mx.array:
    packed = mx.quantize(weight, group_size=width.group_size, bits=width.bits)
    return mx.dequantize(*packed, group_size=width.group_size, bits=width.bits)


def _squared_error(module: Linear | Embedding, width: BitWidth) -> float:
    """Return the mean squared rounding error over a sample of rows."""
    # A sample, because a vocabulary's table has many rows, and each width would read all of them.
    rows = module.weight[:: max(1, len(module.weight) // _ROWS)]
    return float(np.array(((rows - _round(rows, width)) ** 2).mean())) + _TINY
