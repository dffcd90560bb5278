"""What each module's rounding costs the answers: one module at a time, all others in float.

Errors of answers are taken to add up, and to grow with the squared error of weights; both hold while they are small.
"""

from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob, select_modules
from mlx_hf_bridge.quantization.distillation import output_distance
from mlx_hf_bridge.quantization.widths import BitWidth

_PROBE = BitWidth(4, 64)
# Of the calibration batches; sensitivities differ by factors, and a few hundred tokens show them.
_BATCHES = 8
_ROWS = 2048
# What second-order rounding leaves of the error of plain rounding, about, in a product and in a table.
_OF_PRODUCT, _OF_TABLE = 0.15, 0.65


def predict_errors(
    job: CalibrationJob, widths: Iterable[BitWidth], second_order: bool
) -> dict[str, dict[BitWidth, float]]:
    """module path -> width -> the error that it is predicted to add to the answers."""
    chosen = job.calibration_batches[:: max(1, len(job.calibration_batches) // _BATCHES)]
    targets = [job.select_output(job.float_model(batch), batch) for batch in chosen]
    mx.eval(targets)
    found: dict[str, dict[BitWidth, float]] = {}
    wanted = list(widths)
    for path, module in select_modules(job.quantized_model, job.widths).items():
        job.on_step(path)
        weight = module.weight
        able = [width for width in wanted if weight.shape[-1] % width.group_size == 0]
        probe = _PROBE if weight.shape[-1] % _PROBE.group_size == 0 else BitWidth(_PROBE.bits, 32)
        module.weight = _rounded(weight, probe)
        answers = [job.select_output(job.quantized_model(batch), batch) for batch in chosen]
        distances = [output_distance(own, target) for own, target in zip(answers, targets, strict=True)]
        error = float(np.array(mx.stack(distances).mean()))
        module.weight = weight
        share = (_OF_PRODUCT if isinstance(module, Linear) else _OF_TABLE) if second_order else 1.0
        base = _squared_error(module, probe)
        found[path] = {width: share * error * _squared_error(module, width) / base for width in able}
    return found


def _rounded(weight: mx.array, width: BitWidth) -> mx.array:
    packed = mx.quantize(weight, group_size=width.group_size, bits=width.bits)
    return mx.dequantize(*packed, group_size=width.group_size, bits=width.bits)


def _squared_error(module: Linear | Embedding, width: BitWidth) -> float:
    """Of a sample of rows; never 0, so that ratios exist."""
    rows = module.weight[:: max(1, len(module.weight) // _ROWS)]
    return float(np.array(((rows - _rounded(rows, width)) ** 2).mean())) + 1e-30
