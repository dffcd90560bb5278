"""One model, from a Hub id or folder, converted into a folder of the caller's choice: resolve, plan, write.

Sizes are of the weights file; a megabyte (`target_size_mb`, `MB`) is 2^20 bytes.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx

from mlx_hf_bridge.architecture.family import BASE_TASK, SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, read_checkpoint
from mlx_hf_bridge.checkpoints.dtypes import parse_dtype
from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.cache import write_atomically
from mlx_hf_bridge.conversion.mixed import module_widths, resolve_bits
from mlx_hf_bridge.conversion.output_folder import check_replaceable, is_occupied, same_result
from mlx_hf_bridge.conversion.plan import QUANTIZED_DTYPE, Plan, plan_conversion
from mlx_hf_bridge.conversion.traced import plan_traced, wants_tracing
from mlx_hf_bridge.conversion.write import write_conversion
from mlx_hf_bridge.errors import InputError, SizeTargetError
from mlx_hf_bridge.quantization.recipes import (
    RECIPES,
    MLXQuantizationConfig,
    QuantizationLike,
    recipe_from,
    recipe_name,
)
from mlx_hf_bridge.runtime.executor import run

logger = logging.getLogger(__name__)

_FLOAT_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

# What a caller may say -> the task that is converted for.
TASKS = {
    "feature-extraction": BASE_TASK,
    "embedding": BASE_TASK,
    "embeddings": BASE_TASK,
    "sentence-similarity": BASE_TASK,
    "text-classification": SEQUENCE_CLASSIFICATION,
    "sentiment-analysis": SEQUENCE_CLASSIFICATION,
    "zero-shot-classification": SEQUENCE_CLASSIFICATION,
    "reranking": SEQUENCE_CLASSIFICATION,
}


@dataclass(frozen=True)
class ConversionResult:
    """What `convert` did, or would do.

    predicted_bytes: of the weights file, from headers; None for a result that was already there. weight_bytes: of the
    file as written; None when planned only. source_bytes: of the source's weight files. modules: the widths that were
    chosen, None for float; None for a recipe without a target.
    """

    action: Literal["converted", "skipped", "would convert"]
    folder: Path
    task: str
    recipe: MLXQuantizationConfig | None
    source_bytes: int
    predicted_bytes: int | None = None
    weight_bytes: int | None = None
    modules: Mapping[str, Mapping[str, int] | None] | None = None


def convert(
    name: str | Path,
    output_dir: str | Path,
    *,
    quantization_config: QuantizationLike = "q8",
    dtype: Any = "auto",
    task: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    target_size_mb: float | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ConversionResult:
    """Convert a Hub id or folder into the folder `output_dir`, wholly or not at all.

    A result that is there, of the same source, recipe, dtype and task, is left as it is. Anything else in the folder
    is a RepositoryError, or replaced with overwrite=True. dry_run: decide, check and predict from headers alone, read
    on the Hub where they are there; write nothing. task: one of TASKS; None follows config.json.
    target_size_mb: the most that the weights may take; a recipe that chooses widths chooses them to meet it.
    Raises SizeTargetError when the weights would exceed target_size_mb, and what from_pretrained raises.
    """
    recipe, stored, folder = recipe_from(quantization_config), parse_dtype(dtype), Path(output_dir).expanduser()
    if recipe and recipe.has_target and target_size_mb is not None:
        recipe = replace(recipe, target_size_mb=target_size_mb, bits_per_weight=None)
    checkpoint = read_checkpoint(locate(name, HubOptions(revision, token)))
    chosen = task_of(checkpoint.config, task)
    check_replaceable(folder, checkpoint.source)
    if is_occupied(folder) and not overwrite:
        found = stored or (QUANTIZED_DTYPE if recipe else _plan(checkpoint, chosen, recipe, stored).dtype)
        metadata = same_result(folder, checkpoint.source, chosen, recipe, found)
        there, source_bytes = metadata["weight_bytes"], metadata["source_bytes"]
        check_target(there, target_size_mb, str(folder))
        return ConversionResult("skipped", folder, chosen, recipe, source_bytes, weight_bytes=there)
    chooses = recipe is not None and recipe.has_target
    plan = _plan(checkpoint, chosen, recipe, stored, fetch=chooses or not dry_run)
    if chooses:
        plan = run(lambda: resolve_bits(plan, show_progress))
    check_target(plan.weight_bytes, target_size_mb, f"{name} in {recipe_name(recipe)}", _smaller(plan, target_size_mb))
    facts = (folder, chosen, recipe, plan.source_bytes, plan.weight_bytes)
    modules = module_widths(plan) if chooses else None
    if dry_run:
        return ConversionResult("would convert", *facts, modules=modules)
    written = _write(plan, folder, show_progress)
    return ConversionResult("converted", *facts, written, modules)


def task_of(config: Mapping[str, Any], asked: str | None) -> str:
    """The task asked for, by its own name or an alias; without one, as the architectures of config.json say."""
    if asked is None:
        architectures = config.get("architectures") or []
        classifies = any(str(name).endswith("ForSequenceClassification") for name in architectures)
        return SEQUENCE_CLASSIFICATION if classifies else BASE_TASK
    if asked not in TASKS:
        raise InputError(f"task={asked!r} is not converted for; use one of {', '.join(TASKS)}, or leave it out.")
    return TASKS[asked]


def short_name(name: str | Path) -> str:
    """The last part of a Hub id; the name of a folder."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else str(name).rstrip("/").rpartition("/")[2]


def folder_name(short: str, recipe: MLXQuantizationConfig | None, dtype: str | None = None) -> str:
    """A model's usual folder: its name, "mlx" and the recipe ("all-MiniLM-L6-v2-mlx-q8", "...-mlx-fp32")."""
    return f"{short}-mlx-{recipe_name(recipe) if recipe else _FLOAT_NAMES.get(dtype or '', 'float')}"


def check_target(size: int, target_size_mb: float | None, what: str, advice: str = "") -> None:
    """SizeTargetError when `size` bytes are more than the target."""
    if target_size_mb is not None and size > target_size_mb * MB:
        raise SizeTargetError(
            f"the weights of {what} take {size / MB:.1f} MB (1 MB = 2^20 bytes), more than "
            f"target_size_mb={target_size_mb:g}. {advice or 'Ask for fewer bits, or raise the target.'}"
        )


def _plan(
    checkpoint: Checkpoint, task: str, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None, fetch: bool = True
) -> Plan:
    if wants_tracing(checkpoint, "auto"):
        return run(lambda: plan_traced(checkpoint, task, recipe, dtype))
    return run(lambda: plan_conversion(checkpoint, task, recipe, dtype, fetch))


def _write(plan: Plan, folder: Path, show_progress: bool) -> int:
    """The planned folder in its place -> the bytes of its weights file."""
    written: list[int] = []

    def make(new: Path) -> None:
        metadata = run(lambda: write_conversion(plan, new, show_progress))
        written.append(metadata["weight_bytes"])

    write_atomically(folder, make)
    logger.info("%s was written: weights of %.1f MB", folder, written[0] / MB)
    return written[0]


def _smaller(plan: Plan, target_size_mb: float | None) -> str:
    """What to do about a target that is missed: the widest recipe that meets it, where one does."""
    group_size = plan.recipe.group_size if plan.recipe and plan.recipe.mode == "affine" else None
    if plan.recipe is None or target_size_mb is None:
        return ""
    for name, named in RECIPES.items():
        if named.mode != "affine" or named.bits >= plan.recipe.bits:
            continue
        recipe = replace(named, group_size=group_size) if group_size else named
        packed = [replace(tensor, recipe=recipe) if tensor.recipe else tensor for tensor in plan.tensors.values()]
        if (size := sum(tensor.bytes for tensor in packed)) <= target_size_mb * MB:
            return f"{name} would take {size / MB:.1f} MB; ask for that, or raise the target."
    return "No fewer bits meet it; raise the target."
