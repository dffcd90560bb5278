"""The calibrated rounding of a whole model: integers, scales and biases, and with "distill" tuned small parameters."""

from collections.abc import Mapping

import mlx.core as mx

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization import curvature
from mlx_hf_bridge.quantization.calibration_job import CalibrationJob
from mlx_hf_bridge.quantization.distillation import distill
from mlx_hf_bridge.quantization.layerwise import quantize_layers
from mlx_hf_bridge.quantization.quantized_weights import QuantizedWeights

# Optimizer steps of distillation: some minutes for six layers on two CPU cores. On all-MiniLM-L6-v2
# distillation gained nothing in 60 and 80 steps (docs/quantization.md), so that no recipe uses it.
STEPS = 200


def calibrate(
    job: CalibrationJob, method: str, seed: int, samples: int
) -> tuple[dict[str, QuantizedWeights], dict[str, mx.array]]:
    """Round the weights of every module of the job.

    Args:
        job: The models and calibration batches.
        method: "data_free", "gptq" or "distill".
        seed: Seed of the random gradients and of the order of batches.
        samples: Random gradients that the curvature of the outputs is estimated from; 0 rounds each linear layer for
            its own outputs.

    Returns:
        Quantized weights by module path, and tuned parameters (biases, with "distill" norms too) by parameter name.

    Raises:
        QuantizationError: If the model's hidden states are not finite on the calibration texts.
    """
    # Curvature comes first: it is measured once, on the float model.
    quantized, tuned = quantize_layers(job, curvature.estimate_curvatures(job, seed, samples))
    _check_finite(quantized)
    if method != "distill":
        return quantized, tuned
    return distill(job, quantized, seed, STEPS)


def count_steps(modules: int, method: str, samples: int) -> int:
    """Return how often `calibrate` calls the job's `on_step`, for a progress bar."""
    return samples + modules + (STEPS if method == "distill" else 0)


def _check_finite(quantized: Mapping[str, QuantizedWeights]) -> None:
    for path, found in quantized.items():
        # Checked here, where the module and the cause are known; at inference every output would be NaN.
        if not all(bool(mx.isfinite(mx.array(part)).all()) for part in (found.scales, found.biases)):
            raise QuantizationError(
                f"{path} reads inputs that are inf or nan on the calibration texts, so it cannot be calibrated. Check "
                "the checkpoint, or use method='least_squares'."
            )
