"""What a calibration works on: a float model, one that is being quantized, and batches to compare them on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.inference.model import EncoderOutput, Model
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.quantized_weights import Floats
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.quantization.widths import BitWidth


@dataclass(frozen=True)
class CalibrationJob:
    """The inputs of a calibration.

    Attributes:
        float_model: The model in float32; left as it was.
        quantized_model: A second model of the same weights, whose weights are replaced by rounded ones.
        unpadded_batches: Calibration texts in batches of one length each, for statistics of the layers' inputs.
        calibration_batches: The texts in padded batches, for gradients.
        widths: Bits and group size by module path, of the modules to quantize.
        dtype: What scales and biases are stored in.
        select_output: Returns what users read of a forward pass: sentence embeddings (B, D) or logits (B, C).
        resume: Where finished steps are stored.
        on_step: Called with a label after every step.
    """

    float_model: Model
    quantized_model: Model
    unpadded_batches: Sequence[TokenBatch]
    calibration_batches: Sequence[TokenBatch]
    widths: Mapping[str, BitWidth]
    dtype: mx.Dtype
    select_output: Callable[[EncoderOutput, TokenBatch], mx.array]
    resume: ResumeStore = field(default_factory=lambda: ResumeStore(None))
    on_step: Callable[[str], None] = lambda label: None


def select_modules(model: Model, paths: Collection[str]) -> dict[str, Linear | Embedding]:
    """Return the modules at these paths."""
    return {path: module for path, module in model.named_modules() if path in paths}


def select_linears(model: Model, paths: Collection[str]) -> dict[str, Linear]:
    """Return the modules at these paths that are linear layers."""
    return {path: module for path, module in select_modules(model, paths).items() if isinstance(module, Linear)}


def float_weights(module: Linear | Embedding) -> Floats:
    """Return a module's float weights of shape (O, I)."""
    return np.array(module.weight.astype(mx.float32))
