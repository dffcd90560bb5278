"""From a float model and batches of texts to codes, and to tuned norms and biases where answers are taught."""

from collections.abc import Mapping

import mlx.core as mx

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization import curvature
from mlx_hf_bridge.quantization.calibration_job import Work
from mlx_hf_bridge.quantization.codes import Codes
from mlx_hf_bridge.quantization.distillation import distilled
from mlx_hf_bridge.quantization.layerwise import rounded_layers

# Of distillation: some minutes for six layers on two CPU cores.
STEPS = 200


def calibrate(work: Work, method: str, seed: int) -> tuple[dict[str, Codes], dict[str, mx.array]]:
    """-> codes by module path, and tuned parameters by our parameter names; QuantizationError for inputs not finite."""
    codes, biases = rounded_layers(work, curvature.curvatures(work, seed))
    _check_finite(codes)
    if method != "distill":
        return codes, biases
    return distilled(work, codes, seed, STEPS)


def ticks(work_modules: int, method: str) -> int:
    """How often `calibrate` calls `work.tick`."""
    return curvature.LOOKS + work_modules + (STEPS if method == "distill" else 0)


def _check_finite(codes: Mapping[str, Codes]) -> None:
    for path, found in codes.items():
        if not all(bool(mx.isfinite(mx.array(part)).all()) for part in (found.scales, found.biases)):
            raise QuantizationError(
                f"{path} reads inputs that are inf or nan on the calibration texts, so it cannot be calibrated. Check "
                "the checkpoint, or use method='least_squares'."
            )
