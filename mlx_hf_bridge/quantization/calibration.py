"""From a float model and batches of texts to codes, and to tuned norms and biases where answers are taught."""

from collections.abc import Mapping

import mlx.core as mx

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization import curvature
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob
from mlx_hf_bridge.quantization.distillation import distill
from mlx_hf_bridge.quantization.layerwise import quantize_layers
from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights

# Of distillation: some minutes for six layers on two CPU cores.
STEPS = 200


def calibrate(job: CalibrationJob, method: str, seed: int) -> tuple[dict[str, QuantizedWeights], dict[str, mx.array]]:
    """-> codes by module path, and tuned parameters by our parameter names; QuantizationError for inputs not finite."""
    codes, biases = quantize_layers(job, curvature.estimate_curvatures(job, seed))
    _check_finite(codes)
    if method != "distill":
        return codes, biases
    return distill(job, codes, seed, STEPS)


def count_steps(work_modules: int, method: str) -> int:
    """How often `calibrate` calls `work.tick`."""
    return curvature.GRADIENT_SAMPLES + work_modules + (STEPS if method == "distill" else 0)


def _check_finite(codes: Mapping[str, QuantizedWeights]) -> None:
    for path, found in codes.items():
        if not all(bool(mx.isfinite(mx.array(part)).all()) for part in (found.scales, found.biases)):
            raise QuantizationError(
                f"{path} reads inputs that are inf or nan on the calibration texts, so it cannot be calibrated. Check "
                "the checkpoint, or use method='least_squares'."
            )
