"""What a calibration works on: a float model, one that is being packed, and the texts that they are compared on."""

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
    """A float model, one of the same weights that is being packed, and the batches that they are compared on.

    batches: of texts of one length each, without padding; lessons: the same texts, with it. widths: by our module
    paths. dtype: what scales are stored in. `answer` takes what a user reads out of a pass.
    """

    float_model: Model
    quantized_model: Model
    unpadded_batches: Sequence[TokenBatch]
    calibration_batches: Sequence[TokenBatch]
    widths: Mapping[str, BitWidth]
    dtype: mx.Dtype
    select_output: Callable[[EncoderOutput, TokenBatch], mx.array]
    resume: ResumeStore = field(default_factory=lambda: ResumeStore(None))
    on_step: Callable[[str], None] = lambda what: None


def select_modules(model: Model, paths: Collection[str]) -> dict[str, Linear | Embedding]:
    """The modules at those paths."""
    return {path: module for path, module in model.named_modules() if path in paths}


def select_linears(model: Model, paths: Collection[str]) -> dict[str, Linear]:
    """The modules at those paths that are products."""
    return {path: module for path, module in select_modules(model, paths).items() if isinstance(module, Linear)}


def float_weights(module: Linear | Embedding) -> Floats:
    """A module's float weights (O, I)."""
    return np.array(module.weight.astype(mx.float32))
