"""A conversion planned from file headers alone: what becomes of every tensor, and the bytes that it will take."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.architecture.unsupported import remote_code_note
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, open_weight_files
from mlx_hf_bridge.checkpoints.dtypes import config_dtype
from mlx_hf_bridge.checkpoints.remote import read_headers
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, WeightFile, byte_size
from mlx_hf_bridge.errors import QuantizationError, WeightsError
from mlx_hf_bridge.inference.model import build_model
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.policy import is_packable
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.weights.lora import merge_adapter
from mlx_hf_bridge.weights.name_mapping import KEEP_FILE_DTYPE, NameMapping, TensorTarget, resolve_names
from mlx_hf_bridge.weights.quantized import read_packing
from mlx_hf_bridge.weights.sizes import check_sizes
from mlx_hf_bridge.weights.tensor_keys import complete_config
from mlx_hf_bridge.weights.ties import settle_ties
from mlx_hf_bridge.weights.validation import STRICT, Tolerance, check_fit

# The dtype of scales, biases and unquantized tensors of a quantized folder, unless `dtype` says otherwise.
QUANTIZED_DTYPE = mx.float16


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one tensor.

    Attributes:
        name: Its name in the converted folder.
        info: Its dtype and shape in the checkpoint.
        dtype: What it, or its scales and biases, are stored in.
        recipe: The recipe that quantizes it; None for a tensor that stays in float.
    """

    name: str
    info: TensorInfo
    dtype: mx.Dtype
    recipe: MLXQuantizationConfig | None = None

    @property
    def bytes(self) -> int:
        """Bytes on disk, scales and biases included, without the header."""
        count = math.prod(self.info.shape)
        if self.recipe is None:
            return byte_size(self.info) if not self.info.is_float else count * self.dtype.size
        groups = count // self.recipe.group_size
        # A scale and a bias for each group in affine mode; one byte (E8M0 or E4M3) in the fp modes.
        group_bytes = 2 * self.dtype.size if self.recipe.mode == "affine" else 1
        # Exact: a group's weights fill whole bytes at any number of bits.
        return count * self.recipe.bits // 8 + groups * group_bytes


@dataclass(frozen=True)
class Plan:
    """A conversion that is decided but not done.

    Attributes:
        checkpoint: The source.
        family: The model type's family.
        config: The model's config.
        task: The task whose head the folder has.
        recipe: The recipe, None for float weights.
        dtype: Dtype of unquantized tensors, scales and biases.
        files: The source's weight files.
        tensors: The checkpoint's tensor names -> what becomes of them.
        kept_in_float: New names of weights that the recipe would quantize and does not, since the group size does not
            divide their inputs or the recipe excludes them.
        dropped: Tensors that the model of a changed config has no parameter for.
        extra_files: File name -> JSON content, written next to the weights.
        bits_resolved: Whether a recipe with a size target has had its bits chosen.
    """

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
        """Bytes of the source's weight files; of files that are still on the Hub, without headers."""
        return sum(
            file.path.stat().st_size if file.path.is_file() else sum(map(byte_size, file.tensor_infos.values()))
            for file in self.files
        )

    @property
    def weight_bytes(self) -> int:
        """Predicted bytes of model.safetensors, without its header of some hundred bytes a tensor."""
        return sum(tensor.bytes for tensor in self.tensors.values())


def plan_conversion(
    checkpoint: Checkpoint,
    task: str,
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
    fetch: bool = True,
    tolerance: Tolerance = STRICT,
    headers: Sequence[WeightFile] | None = None,
) -> Plan:
    """Decide what becomes of every tensor; any fault of the checkpoint is an error before a byte is written.

    Args:
        checkpoint: The source; an adapter in it is merged.
        task: The task whose head the folder is to have.
        recipe: The recipe, None for float weights.
        dtype: Dtype of unquantized tensors, scales and biases; None keeps the source's, or is float16 with a recipe.
        fetch: False reads only headers from the Hub; such a plan can be inspected and not written.
        tolerance: How the tensors may differ from the model.
        headers: The weight files, if they were opened before; None opens them.

    Returns:
        The plan.

    Raises:
        QuantizationError: If the checkpoint is already converted, or the recipe gives fused modules different bits.
        WeightsError: If the tensors do not fit the model.
        UnsupportedModelError: If the family has no head for the task.
    """
    family = family_for(checkpoint.config)
    if checkpoint.is_converted or read_packing(checkpoint.config):
        raise QuantizationError(
            f"{checkpoint.source.name} is already converted; convert the checkpoint that it was made from"
            f"{', with the adapter' if checkpoint.adapter else ''}."
        )
    files = list(headers or (open_weight_files(checkpoint) if fetch else read_headers(checkpoint)))
    raw = complete_config(files, family, checkpoint.config)
    files, raw = settle_ties(files, family, raw, compare=fetch)
    if checkpoint.adapter is not None:
        base = NameMapping(family, family.config.from_json(raw), task)
        # An adapter may bring a decoder of its own (modules_to_save).
        files, raw = settle_ties(merge_adapter(files, checkpoint.adapter, base), family, raw, compare=fetch)
    checkpoint = replace(checkpoint, config=raw)
    config, where = family.config.from_json(raw), str(checkpoint.model_folder)
    names = NameMapping(family, config, task)
    tensor_infos = {name: info for file in files for name, info in file.tensor_infos.items()}
    try:
        targets = resolve_names(names, tensor_infos, where)
        check_sizes(config, tensor_infos, where)
    except WeightsError as error:
        # Other tensors than the class of that name has: the repo's own code is the likely reason.
        raise WeightsError(f"{error} {remote_code_note(raw)}".rstrip()) from error
    # Read from the file, since checkpoints without a pooler have the same config.
    has_pooler = any(target.path and target.path.startswith("pooler.") for target in targets.values())
    model = build_model(family, config, task, pooler=has_pooler)
    fit = check_fit(names, targets, tensor_infos, model, where, tolerance)
    targets = {name: target for name, target in targets.items() if name not in fit.unexpected}
    candidates = {path for path, module in model.named_modules() if is_packable(path, module)} if recipe else set()
    weights = {
        name: target for name, target in targets.items() if target.path in candidates and target.leaf == "weight"
    }
    readable = {name: target for name, target in weights.items() if name not in fit.unread}
    recipes = _recipes_by_tensor(readable, tensor_infos, recipe)
    float_dtype = dtype or (QUANTIZED_DTYPE if recipe else config_dtype(checkpoint.config))
    tensors = _plan_tensors(family, targets, tensor_infos, recipes, float_dtype)
    kept_in_float = tuple(tensors[name].name for name in weights if name not in recipes)
    known = float_dtype or most_common([tensor.dtype for tensor in tensors.values() if tensor.info.is_float])
    return Plan(checkpoint, family, config, task, recipe, known, tuple(files), tensors, kept_in_float, fit.unexpected)


def _plan_tensors(
    family: Family,
    targets: Mapping[str, TensorTarget],
    tensor_infos: Mapping[str, TensorInfo],
    recipes: Mapping[str, MLXQuantizationConfig],
    float_dtype: mx.Dtype | None,
) -> dict[str, TensorPlan]:
    """Return the new name, dtype and recipe of every tensor; None as `float_dtype` keeps the dtypes of the file."""
    # A base model's file has bare names; in one with a head, transformers prefixes the encoder's.
    prefix = "" if all(target.is_base for target in targets.values()) else f"{family.prefix}."
    found = {}
    for name, target in targets.items():
        found[name] = TensorPlan(
            # A packed weight has a name for each of its parts.
            (prefix if target.is_base else "") + (replace(target, is_bare=False) if name in recipes else target).name,
            tensor_infos[name],
            float_dtype if float_dtype and target.leaf not in KEEP_FILE_DTYPE else _file_dtype(tensor_infos[name]),
            recipes.get(name),
        )
    return found


def _recipes_by_tensor(
    weights: Mapping[str, TensorTarget], tensor_infos: Mapping[str, TensorInfo], recipe: MLXQuantizationConfig | None
) -> dict[str, MLXQuantizationConfig]:
    """Return the recipe of each weight that is quantized; slices of a fused module are quantized all alike or not."""
    if recipe is None:
        return {}
    by_name = {name: recipe.for_module(target.module) for name, target in weights.items()}
    possible = {
        name: found for name, found in by_name.items() if found and tensor_infos[name].shape[-1] % found.group_size == 0
    }
    # If one slice of a fused matrix stays in float, the others must too: a matrix has one form.
    incomplete = {target.path for name, target in weights.items() if name not in possible}
    complete = {name: found for name, found in possible.items() if weights[name].path not in incomplete}
    widths: dict[str | None, tuple[int, int]] = {}
    for name, found in complete.items():
        width = (found.bits, found.group_size)
        if widths.setdefault(weights[name].path, width) != width:
            raise QuantizationError(
                f"modules gives {weights[name].module} {width[0]} bits in groups of {width[1]}, and modules that are "
                f"fused with it {widths[weights[name].path]}. Give queries, keys and values the same."
            )
    return complete


def _file_dtype(info: TensorInfo) -> mx.Dtype:
    """Return the dtype of the file, float32 for float64, which MLX lacks on a GPU; integers are never cast."""
    return mx.float32 if info.mlx_dtype is None or info.mlx_dtype == mx.float64 else info.mlx_dtype


def most_common(dtypes: list[mx.Dtype]) -> mx.Dtype:
    """Return the most frequent of float32, float16 and bfloat16."""
    return max((mx.float32, mx.float16, mx.bfloat16), key=dtypes.count)
