"""A conversion decided from headers alone: what becomes of every tensor, and the bytes that it will take."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, open_weight_files
from mlx_hf_bridge.checkpoints.dtypes import config_dtype
from mlx_hf_bridge.checkpoints.remote import read_headers
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, WeightFile, byte_size
from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.inference.model import build_model
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.policy import is_packable
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.weights.lora import merge_adapter
from mlx_hf_bridge.weights.name_mapping import KEEP_FILE_DTYPE, NameMapping, TensorTarget, resolve_names
from mlx_hf_bridge.weights.quantized import read_packing
from mlx_hf_bridge.weights.validation import STRICT, Tolerance, check_fit

# What a quantised recipe stores beside its packed weights, unless `dtype` says otherwise.
QUANTIZED_DTYPE = mx.float16


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
    """A conversion, decided but not done. dropped: tensors that a changed config has no place for."""

    checkpoint: Checkpoint
    family: Family
    config: EncoderConfig
    task: str
    recipe: MLXQuantizationConfig | None
    dtype: mx.Dtype
    files: tuple[WeightFile, ...]
    tensors: dict[str, TensorPlan]
    kept_in_float: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    extra_files: Mapping[str, Any] = field(default_factory=dict)
    bits_resolved: bool = False

    @property
    def source_bytes(self) -> int:
        """The size of the source's weight files; of files on the Hub, headers apart."""
        return sum(
            file.path.stat().st_size if file.path.is_file() else sum(map(byte_size, file.tensor_infos.values()))
            for file in self.files
        )

    @property
    def weight_bytes(self) -> int:
        """The predicted size of model.safetensors, but for its header of some hundred bytes a tensor."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def plan_conversion(
    checkpoint: Checkpoint,
    task: str,
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
    fetch: bool = True,
    tolerance: Tolerance = STRICT,
) -> Plan:
    """Decide every tensor's fate from headers; any fault of the checkpoint is an error before a byte is written.

    fetch=False reads the headers of a Hub repo from afar; such a plan can be looked at but not written.
    """
    family = family_for(checkpoint.config)
    config = family.config.from_json(checkpoint.config)
    if checkpoint.is_converted or read_packing(checkpoint.config):
        raise QuantizationError(
            f"{checkpoint.source.name} is already converted; convert the checkpoint that it was made from"
            f"{', with the adapter' if checkpoint.adapter else ''}."
        )
    names, where = NameMapping(family, config, task), str(checkpoint.model_folder)
    files = open_weight_files(checkpoint) if fetch else read_headers(checkpoint)
    if checkpoint.adapter is not None:
        files = merge_adapter(files, checkpoint.adapter, names)
    tensor_infos = {name: info for file in files for name, info in file.tensor_infos.items()}
    targets = resolve_names(names, tensor_infos, where)
    has_pooler = any(place.path and place.path.startswith("pooler.") for place in targets.values())
    model = build_model(family, config, task, pooler=has_pooler)
    fit = check_fit(names, targets, tensor_infos, model, where, tolerance)
    targets = {name: place for name, place in targets.items() if name not in fit.unexpected}
    candidates = {path for path, module in model.named_modules() if is_packable(path, module)} if recipe else set()
    weights = {name: place for name, place in targets.items() if place.path in candidates and place.leaf == "weight"}
    packed = _packed({name: place for name, place in weights.items() if name not in fit.unread}, tensor_infos, recipe)
    prefix = "" if all(place.is_base for place in targets.values()) else f"{family.prefix}."
    rest = dtype or (QUANTIZED_DTYPE if recipe else config_dtype(checkpoint.config))
    tensors = {
        name: TensorPlan(
            (prefix if place.is_base else "") + place.name,
            tensor_infos[name],
            _own_dtype(tensor_infos[name]) if place.leaf in KEEP_FILE_DTYPE or rest is None else rest,
            packed.get(name),
        )
        for name, place in targets.items()
    }
    left = tuple(tensors[name].name for name in weights if name not in packed)
    checked = rest or most_common([tensor.dtype for tensor in tensors.values() if tensor.info.is_float])
    return Plan(checkpoint, family, config, task, recipe, checked, tuple(files), tensors, left, fit.unexpected)


def _packed(
    weights: Mapping[str, TensorTarget], tensor_infos: Mapping[str, TensorInfo], recipe: MLXQuantizationConfig | None
) -> dict[str, MLXQuantizationConfig]:
    """The weights that are packed, each with its recipe; of a joined module all parts or none, in one way."""
    if recipe is None:
        return {}
    own = {name: recipe.for_module(place.module) for name, place in weights.items()}
    able = {name: one for name, one in own.items() if one and tensor_infos[name].shape[-1] % one.group_size == 0}
    halved = {place.path for name, place in weights.items() if name not in able}
    whole = {name: one for name, one in able.items() if weights[name].path not in halved}
    widths: dict[str | None, tuple[int, int]] = {}
    for name, one in whole.items():
        width = (one.bits, one.group_size)
        if widths.setdefault(weights[name].path, width) != width:
            raise QuantizationError(
                f"modules gives {weights[name].module} {width[0]} bits in groups of {width[1]}, and modules that are "
                f"joined with it {widths[weights[name].path]}. Give queries, keys and values the same."
            )
    return whole


def _own_dtype(info: TensorInfo) -> mx.Dtype:
    """As in the file; MLX has no float64 on a GPU, and whole numbers are copied whatever this says."""
    return mx.float32 if info.mlx_dtype is None or info.mlx_dtype == mx.float64 else info.mlx_dtype


def most_common(dtypes: list[mx.Dtype]) -> mx.Dtype:
    return max((mx.float32, mx.float16, mx.bfloat16), key=dtypes.count)
