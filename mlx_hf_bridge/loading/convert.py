"""A checkpoint becomes a folder in the one format: HF's names, MLX's packing, tokenizer and module folders.

First a plan, made from headers alone, then the writing of it.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm.auto import tqdm

from mlx_hf_bridge.errors import QuantizationError, WeightsError
from mlx_hf_bridge.family import BASE_TASK, EncoderConfig, Family
from mlx_hf_bridge.inference.model import build
from mlx_hf_bridge.loading.checkpoint import METADATA_FILE, Checkpoint, open_weights
from mlx_hf_bridge.loading.folder import copy_modules, write_config, write_json
from mlx_hf_bridge.loading.tensors import SINGLE_FILE, TensorInfo, WeightFile, byte_size
from mlx_hf_bridge.loading.tokenizer_files import write_tokenizer
from mlx_hf_bridge.loading.weights import Names, Place, check_shapes, place_all
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.policy import is_packable
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig

logger = logging.getLogger(__name__)

FORMAT = 1
# What a quantised recipe stores beside its packed weights, unless `dtype` says otherwise.
_QUANTIZED_DTYPE = mx.float16
_LIBRARIES = ("mlx-hf-bridge", "mlx", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor: its new name and dtype, and the recipe that packs it, if one does."""

    name: str
    info: TensorInfo
    dtype: mx.Dtype
    recipe: MLXQuantizationConfig | None = None

    @property
    def bytes(self) -> int:
        """Bytes on disk, header apart."""
        count = math.prod(self.info.shape)
        if self.recipe is None:
            return byte_size(self.info) if not self.info.is_float else count * self.dtype.size
        groups = count // self.recipe.group_size
        group_bytes = 2 * self.dtype.size if self.recipe.mode == "affine" else 1
        return count * self.recipe.bits // 8 + groups * group_bytes


@dataclass(frozen=True)
class Plan:
    """A conversion, decided but not done."""

    checkpoint: Checkpoint
    family: Family
    config: EncoderConfig
    task: str
    recipe: MLXQuantizationConfig | None
    dtype: mx.Dtype
    files: tuple[WeightFile, ...]
    tensors: dict[str, TensorPlan]
    left_in_float: tuple[str, ...]

    @property
    def weight_bytes(self) -> int:
        """The predicted size of model.safetensors, but for its header of some hundred bytes a tensor."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def plan_conversion(
    checkpoint: Checkpoint, task: str, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None
) -> Plan:
    """Decide every tensor's fate from headers; any fault of the checkpoint is an error here, before a byte is written."""
    family = family_for(checkpoint.config)
    config = family.config.from_json(checkpoint.config)
    if checkpoint.is_converted:
        raise QuantizationError(
            f"{checkpoint.source.name} is already converted; convert the checkpoint that it was made from."
        )
    names = Names(family, task)
    files = open_weights(checkpoint)
    infos = {name: info for file in files for name, info in file.infos.items()}
    placed = place_all(names, infos, str(checkpoint.model_folder))
    has_pooler = any(place.ours and place.ours.startswith("pooler.") for place in placed.values())
    model = build(family, config, task, pooler=has_pooler)
    check_shapes(names, placed, infos, model, str(checkpoint.model_folder))
    packable = {path for path, module in model.named_modules() if is_packable(path, module)}
    prefix = "" if all(place.is_base for place in placed.values()) else f"{family.prefix}."
    rest = dtype or (_QUANTIZED_DTYPE if recipe else None)
    tensors = {
        name: TensorPlan(
            (prefix if place.is_base else "") + place.name,
            infos[name],
            rest or _own_dtype(infos[name], name),
            recipe if _packs(place, infos[name], recipe, packable) else None,
        )
        for name, place in placed.items()
    }
    left = tuple(
        tensors[name].name
        for name, place in placed.items()
        if recipe and place.ours in packable and place.leaf == "weight" and tensors[name].recipe is None
    )
    checked = rest or _most_common([tensor.dtype for tensor in tensors.values() if tensor.info.is_float])
    return Plan(checkpoint, family, config, task, recipe, checked, tuple(files), tensors, left)


def _own_dtype(info: TensorInfo, name: str) -> mx.Dtype:
    if info.mlx_dtype is None:
        raise WeightsError(f"{name} has the dtype {info.dtype}, which MLX does not have. Convert it to F32 first.")
    return mx.float32 if info.mlx_dtype == mx.float64 else info.mlx_dtype


def _most_common(dtypes: list[mx.Dtype]) -> mx.Dtype:
    return max((mx.float32, mx.float16, mx.bfloat16), key=dtypes.count)


def _packs(place: Place, info: TensorInfo, recipe: MLXQuantizationConfig | None, packable: set[str]) -> bool:
    if recipe is None or place.leaf != "weight" or place.ours not in packable or not info.is_float:
        return False
    return info.shape[-1] % recipe.group_size == 0 and not recipe.skips(place.module)


def write_conversion(plan: Plan, folder: Path, show_progress: bool = True) -> dict[str, Any]:
    """Write the planned folder into an empty one -> its metadata."""
    for name in plan.left_in_float:
        logger.warning("%s stays in %s: its width is not divisible into groups, or the recipe leaves it out", name, plan.dtype)
    arrays = dict(_converted(plan, show_progress))
    mx.save_safetensors(str(folder / SINGLE_FILE), arrays, metadata={"format": "mlx"})
    del arrays
    write_config(plan.checkpoint, folder, plan.recipe, plan.dtype, _packed_modules(plan), _architecture(plan))
    write_tokenizer(plan.checkpoint, plan.family, folder)
    copy_modules(plan.checkpoint, folder)
    metadata = _metadata(plan, folder)
    write_json(folder / METADATA_FILE, metadata)
    return metadata


def _converted(plan: Plan, show_progress: bool) -> Iterator[tuple[str, mx.array]]:
    total = len(plan.tensors)
    bar = tqdm(total=total, desc="Converting", unit="tensor", disable=None if show_progress else True)
    with bar:
        for file in plan.files:
            for name, array in file.arrays():
                if name in plan.tensors:
                    yield from _convert_one(plan.tensors[name], array)
                    bar.update()


def _convert_one(tensor: TensorPlan, array: mx.array) -> list[tuple[str, mx.array]]:
    if tensor.recipe is None:
        result = [(tensor.name, _cast(tensor, array) if tensor.info.is_float else array)]
    else:
        recipe = tensor.recipe
        packed, scales, *biases = mx.quantize(
            array.astype(mx.float32), group_size=recipe.group_size, bits=recipe.bits, mode=recipe.mode
        )
        module = tensor.name.rpartition(".")[0]
        if recipe.mode == "affine":
            scales, biases = scales.astype(tensor.dtype), [bias.astype(tensor.dtype) for bias in biases]
        named = (("weight", packed), ("scales", scales), *(("biases", bias) for bias in biases))
        result = [(f"{module}.{leaf}", value) for leaf, value in named]
    mx.eval([value for _, value in result])
    return result


def _cast(tensor: TensorPlan, array: mx.array) -> mx.array:
    cast = array.astype(tensor.dtype)
    if tensor.dtype == mx.float16 and not bool(mx.isfinite(cast).all()):
        raise WeightsError(
            f"{tensor.name} has values beyond float16's 65504, or that are not finite. Pass dtype='bfloat16' or "
            "dtype='float32'; if the file itself holds inf or nan, download it again."
        )
    return cast


def _packed_modules(plan: Plan) -> list[str]:
    return sorted(tensor.name.rpartition(".")[0] for tensor in plan.tensors.values() if tensor.recipe)


def _architecture(plan: Plan) -> str:
    return plan.family.hf_class if plan.task == BASE_TASK else plan.family.heads[plan.task].hf_class


def _metadata(plan: Plan, folder: Path) -> dict[str, Any]:
    source = plan.checkpoint.source
    modules = {
        tensor.name: tensor.recipe.bits if tensor.recipe else str(tensor.dtype).removeprefix("mlx.core.")
        for tensor in plan.tensors.values()
        if tensor.name.endswith(".weight")
    }
    return {
        "format": FORMAT,
        "source": source.name,
        "revision": source.revision,
        "identity": source.identity,
        "task": plan.task,
        "recipe": plan.recipe.to_dict() if plan.recipe else None,
        "dtype": str(plan.dtype).removeprefix("mlx.core."),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "source_bytes": sum(file.path.stat().st_size for file in plan.files),
        "weight_bytes": (folder / SINGLE_FILE).stat().st_size,
        "bits": dict(sorted(modules.items())),
        "left_in_float": list(plan.left_in_float),
        "files": {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
