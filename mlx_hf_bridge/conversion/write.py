"""A planned conversion written to disk: HF's tensor names, MLX's packing, tokenizer, module folders and metadata."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_hf_bridge.checkpoints.card import read_card_metadata
from mlx_hf_bridge.checkpoints.checkpoint import modules_checkpoint
from mlx_hf_bridge.checkpoints.repo_files import copy_modules, write_config, write_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, dtype_name
from mlx_hf_bridge.conversion.calibrated import Tensors, calibrated_tensors
from mlx_hf_bridge.conversion.integrity import write_metadata
from mlx_hf_bridge.conversion.method_choice import choose_rounding
from mlx_hf_bridge.conversion.mixed import module_widths, resolve_bits
from mlx_hf_bridge.conversion.plan import Plan, TensorPlan
from mlx_hf_bridge.conversion.tokenizer_files import has_tokenizer, write_tokenizer
from mlx_hf_bridge.errors import CheckpointError, WeightsError
from mlx_hf_bridge.quantization.grid import quantize_least_squares
from mlx_hf_bridge.quantization.methods import AUTO, RUNS_MODEL
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, names_module
from mlx_hf_bridge.runtime.progress import ProgressBar
from mlx_hf_bridge.version import installed_version
from mlx_hf_bridge.weights.name_mapping import summarize
from mlx_hf_bridge.weights.quantized import packing_config

logger = logging.getLogger(__name__)

# Version of the folder format. A new one makes the cache ignore folders of older versions.
FORMAT = 3
_LIBRARIES = ("mlx-hf-bridge", "mlx", "transformers", "tokenizers", "numpy")


def write_conversion(plan: Plan, folder: Path, show_progress: bool = True) -> dict[str, Any]:
    """Write a planned conversion into an empty folder.

    Args:
        plan: The plan.
        folder: The folder.
        show_progress: Whether to show a progress bar.

    Returns:
        Its metadata (conversion_metadata.json).

    Raises:
        CheckpointError: If files of the source changed since it was located; what was read may be a mixture.
        WeightsError: If a tensor cannot be quantized or cast.
    """
    try:
        metadata = _write(resolve_bits(plan, show_progress), folder, show_progress)
    # MLX raises RuntimeError and ValueError for a file that is cut while it reads it.
    except (OSError, RuntimeError, ValueError) as error:
        _check_unchanged(plan, error)
        raise
    _check_unchanged(plan)
    return metadata


def _check_unchanged(plan: Plan, cause: Exception | None = None) -> None:
    adapter = plan.checkpoint.adapter
    for source in (plan.checkpoint.source, *([adapter.source] if adapter else [])):
        if source.has_changed:
            raise CheckpointError(
                f"files of {source.name} changed while it was converted, so that nothing was kept of it. Load it again "
                "when the program that writes them has ended."
            ) from cause


def _write(plan: Plan, folder: Path, show_progress: bool) -> dict[str, Any]:
    _log_exclusions(plan)
    calibrated = calibrated_tensors(plan, folder, show_progress) if _is_calibrated(plan) else {}
    # MLX writes a whole file at once, so the result is in memory; float tensors are freed one by one.
    arrays = dict(_convert(plan, calibrated, show_progress))
    mx.save_safetensors(str(folder / SINGLE_FILE), arrays, metadata={"format": "mlx"})
    # Frees the weights before the tokenizer is built.
    del arrays
    for name, content in plan.extra_files.items():
        write_json(folder / name, content, indent=None)
    write_config(
        plan.checkpoint, folder, plan.dtype, packing_config(plan.recipe, _quantized_modules(plan)), _architecture(plan)
    )
    modules = modules_checkpoint(plan.checkpoint)
    with_tokenizer = modules if has_tokenizer(modules.model_folder) else plan.checkpoint
    write_tokenizer(plan.checkpoint.tokenizer or with_tokenizer, plan.family, folder)
    copy_modules(modules, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return write_metadata(folder, _metadata(plan, folder), files)


def _log_exclusions(plan: Plan) -> None:
    if plan.kept_in_float:
        logger.warning(
            "%d weights stay in %s, since the group size does not divide their width or the recipe excludes them: %s",
            len(plan.kept_in_float),
            dtype_name(plan.dtype),
            summarize(list(plan.kept_in_float)),
        )
    modules = [tensor.name.rpartition(".")[0] for tensor in plan.tensors.values()]
    excluded = plan.recipe.modules_to_not_convert if plan.recipe else ()
    if unknown := [name for name in excluded if not any(names_module(name, module) for module in modules)]:
        logger.warning("modules_to_not_convert names %s, which the checkpoint does not have", unknown)


def _is_calibrated(plan: Plan) -> bool:
    return plan.recipe is not None and bool(_quantized_modules(plan)) and choose_rounding(plan).method in RUNS_MODEL


def _convert(plan: Plan, calibrated: Tensors, show_progress: bool) -> Iterator[tuple[str, mx.array]]:
    total = len(plan.tensors)
    bar = ProgressBar(total=total, desc="Converting", unit="tensor", disable=None if show_progress else True)
    with bar:
        for file in plan.files:
            for name, array in file.arrays():
                if name in plan.tensors:
                    yield from calibrated.pop(name, None) or _convert_one(plan.tensors[name], array)
                    bar.update()


def _convert_one(tensor: TensorPlan, array: mx.array) -> list[tuple[str, mx.array]]:
    if not tensor.info.is_float:
        result = [(tensor.name, array)]
    elif tensor.recipe is None:
        result = [(tensor.name, _cast(tensor, array))]
    else:
        result = _quantize(tensor, tensor.recipe, array)
    # Now, so that the float tensor is freed before the next one is read.
    mx.eval([value for _, value in result])
    return result


def _quantize(tensor: TensorPlan, recipe: MLXQuantizationConfig, array: mx.array) -> list[tuple[str, mx.array]]:
    # One infinity would make the scale of its whole group infinite.
    if not bool(mx.isfinite(array).all()):
        raise WeightsError(f"{tensor.name} contains inf or nan, which cannot be quantized. Download the file again.")
    module = tensor.name.rpartition(".")[0]
    if recipe.method != "minmax":
        quantized = quantize_least_squares(
            np.array(array.astype(mx.float32)), recipe.bits, recipe.group_size, tensor.dtype
        )
        return [(f"{module}.{leaf}", value) for leaf, value in quantized.pack(tensor.dtype).items()]
    # Scales are found in float32 and rounded once, when they are stored.
    packed, *others = mx.quantize(
        array.astype(mx.float32), group_size=recipe.group_size, bits=recipe.bits, mode=recipe.mode
    )
    if recipe.mode == "affine":
        others = [_cast(tensor, other) for other in others]
    named = zip(("weight", "scales", "biases"), (packed, *others), strict=False)
    return [(f"{module}.{leaf}", value) for leaf, value in named]


def _cast(tensor: TensorPlan, array: mx.array) -> mx.array:
    cast = array.astype(tensor.dtype)
    # bfloat16 and float32 have float32's range, so only float16 can overflow.
    if tensor.dtype == mx.float16 and not bool(mx.isfinite(cast).all()):
        raise WeightsError(
            f"{tensor.name} has values beyond float16's 65504, or that are not finite. Pass dtype='bfloat16' or "
            "dtype='float32'; if the file itself contains inf or nan, download it again."
        )
    return cast


def _quantized_modules(plan: Plan) -> dict[str, MLXQuantizationConfig]:
    packed = {tensor.name.rpartition(".")[0]: tensor.recipe for tensor in plan.tensors.values() if tensor.recipe}
    return dict(sorted(packed.items()))


def _architecture(plan: Plan) -> str:
    return plan.family.hf_class_name(plan.task)


def _metadata(plan: Plan, folder: Path) -> dict[str, Any]:
    source = plan.checkpoint.source
    bits = {
        tensor.name: tensor.recipe.bits if tensor.recipe else dtype_name(tensor.dtype)
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
        **({"method": choose_rounding(plan).method} if plan.recipe and plan.recipe.method == AUTO else {}),
        **({"plan": module_widths(plan)} if plan.recipe and plan.recipe.has_target else {}),
        "dtype": dtype_name(plan.dtype),
        "libraries": {name: installed_version(name) or "unknown" for name in _LIBRARIES},
        "source_bytes": plan.source_bytes,
        "weight_bytes": (folder / SINGLE_FILE).stat().st_size,
        "bits": dict(sorted(bits.items())),
        "left_in_float": list(plan.kept_in_float),
        "left_out": list(plan.dropped),
        "adapter": plan.checkpoint.adapter.source.name if plan.checkpoint.adapter else None,
        "card": read_card_metadata(modules_checkpoint(plan.checkpoint).folder),
    }
