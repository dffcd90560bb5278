"""What a calibration works on: a float model, one that is being packed, and the texts that they are compared on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.inference.model import Encoded, Model
from mlx_hf_bridge.layers.linear import Embedding, Linear
from mlx_hf_bridge.layers.token_batch import TokenBatch
from mlx_hf_bridge.quantization.codes import Floats
from mlx_hf_bridge.quantization.resume_store import Kept
from mlx_hf_bridge.quantization.widths import Width


@dataclass(frozen=True)
class Work:
    """A float model, one of the same weights that is being packed, and the batches that they are compared on.

    batches: of texts of one length each, without padding; lessons: the same texts, with it. widths: by our module
    paths. dtype: what scales are stored in. `answer` takes what a user reads out of a pass.
    """

    floats: Model
    packed: Model
    batches: Sequence[TokenBatch]
    lessons: Sequence[TokenBatch]
    widths: Mapping[str, Width]
    dtype: mx.Dtype
    answer: Callable[[Encoded, TokenBatch], mx.array]
    kept: Kept = field(default_factory=lambda: Kept(None))
    tick: Callable[[str], None] = lambda what: None


def modules_of(model: Model, paths: Collection[str]) -> dict[str, Linear | Embedding]:
    """The modules at those paths."""
    return {path: module for path, module in model.named_modules() if path in paths}


def products_of(model: Model, paths: Collection[str]) -> dict[str, Linear]:
    """The modules at those paths that are products."""
    return {path: module for path, module in modules_of(model, paths).items() if isinstance(module, Linear)}


def weights_of(module: Linear | Embedding) -> Floats:
    """A module's float weights (O, I)."""
    return np.array(module.weight.astype(mx.float32))
