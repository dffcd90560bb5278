"""What the headers of weight files say: heads, parameters, and sizes by recipe."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_hf_bridge.architecture.family import (
    BASE_TASK,
    HF_SUFFIXES,
    MULTIPLE_CHOICE,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    Family,
)
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint
from mlx_hf_bridge.checkpoints.remote import headers_before_download
from mlx_hf_bridge.checkpoints.safetensors_file import WeightFile, byte_size
from mlx_hf_bridge.conversion.plan import Plan, plan_conversion
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.quantization.recipes import RECIPES, MLXQuantizationConfig
from mlx_hf_bridge.runtime.executor import run

_FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# Others take as many bytes as the one of their bits, or choose bits by measuring the model.
_SIZED = ("q8", "q6", "q5", "q4", "q3", "q2", "mxfp8", "mxfp4", "nvfp4")
# Heads with tensors of the same names.
_SAME_TENSORS = {SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, MULTIPLE_CHOICE}


@dataclass(frozen=True)
class Weights:
    """What is known of a model's weights.

    Attributes:
        files: The files with their headers; None if they cannot be read before a download.
        heads: The tasks whose heads the files hold.
        sizes: Bytes by dtype and recipe, and of the files as they are ("source").
        problem: Why the encoder cannot be loaded; "" if it can.
    """

    files: Sequence[WeightFile] | None = None
    heads: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    problem: str = ""

    @property
    def parameters(self) -> int | None:
        """The number of float weights in the files; None if unknown."""
        return None if self.files is None else sum(math.prod(shape) for shape, _ in self._floats())

    @property
    def dtype(self) -> str | None:
        """The dtype of most weights, as safetensors spells it; None if unknown."""
        counts = Counter[str]()
        for shape, dtype in self._floats():
            counts[dtype] += math.prod(shape)
        return counts.most_common(1)[0][0] if counts else None

    def _floats(self) -> list[tuple[tuple[int, ...], str]]:
        infos = [info for file in self.files or () for info in file.tensor_infos.values()]
        return [(info.shape, info.dtype) for info in infos if info.is_float]


def read_weights(checkpoint: Checkpoint, family: Family | None) -> Weights:
    """Read headers, and plan conversions from them.

    Args:
        checkpoint: The model.
        family: Its family; None for a traced model, of which only the files are known.

    Returns:
        What is known; a problem instead of an error.
    """
    try:
        files = headers_before_download(checkpoint)
    except BridgeError as error:
        return Weights(problem=str(error))
    if files is None:
        return Weights()
    sizes = {"source": sum(byte_size(info) for file in files for info in file.tensor_infos.values())}
    if family is None:
        return Weights(files, sizes=sizes)
    try:
        heads = _heads(checkpoint, family, files)
        task = heads[0] if heads else BASE_TASK
        for name, dtype in _FLOATS.items():
            sizes[name] = _plan(checkpoint, task, files, None, dtype).weight_bytes
        for name in _SIZED:
            sizes[name] = _plan(checkpoint, task, files, RECIPES[name], None).weight_bytes
    except BridgeError as error:
        return Weights(files, sizes={"source": sizes["source"]}, problem=str(error))
    return Weights(files, heads, sizes)


def _heads(checkpoint: Checkpoint, family: Family, files: Sequence[WeightFile]) -> tuple[str, ...]:
    """Return the tasks whose heads the files hold; config.json decides between heads of the same tensors."""
    found = [task for task in family.heads if _has_head(checkpoint, task, files)]
    named = [str(name) for name in checkpoint.config.get("architectures") or ()]
    chosen = [task for task in _SAME_TENSORS if any(name.endswith(HF_SUFFIXES[task]) for name in named)]
    dropped = _SAME_TENSORS - set(chosen) if set(chosen) & set(found) else set()
    return tuple(task for task in found if task not in dropped)


def _has_head(checkpoint: Checkpoint, task: str, files: Sequence[WeightFile]) -> bool:
    try:
        _plan(checkpoint, task, files, None, None)
    except BridgeError:
        return False
    return True


def _plan(
    checkpoint: Checkpoint,
    task: str,
    files: Sequence[WeightFile],
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
) -> Plan:
    return run(lambda: plan_conversion(checkpoint, task, recipe, dtype, fetch=False, headers=files))
