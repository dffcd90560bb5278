"""`convert`: a model from the Hub or a folder, converted into a folder of the caller's choice.

Sizes are those of the weights file; a megabyte (`target_size_mb`, `MB`) is 2^20 bytes.
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
from mlx_hf_bridge.runtime.atomic_folder import write_atomically
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.runtime.executor import run

logger = logging.getLogger(__name__)

_FLOAT_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

# Names of tasks that `convert` accepts -> the task whose head the folder gets.
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

    Attributes:
        action: "converted", "skipped" (the same result was there) or "would convert" (dry_run).
        folder: The output folder.
        task: The task whose head the folder has: "feature-extraction" or "text-classification".
        recipe: The recipe, None for float weights.
        source_bytes: Bytes of the source's weight files.
        predicted_bytes: Bytes of the weights file predicted from headers; None for a result that was there.
        weight_bytes: Bytes of the weights file as written; None for a dry run.
        modules: Bits and group size chosen for each module, None for float; None for a recipe without a size target.
    """

    action: Literal["converted", "skipped", "would convert"]
    folder: Path
    task: str
    recipe: MLXQuantizationConfig | None
    source_bytes: int
    predicted_bytes: int | None = None
    weight_bytes: int | None = None
    modules: Mapping[str, Mapping[str, int] | None] | None = None


@guarded
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
    """Convert a model into a folder that loads without torch or transformers.

    The folder has HF's config and tensor names, MLX's packing, the tokenizer, module folders and
    conversion_metadata.json. It is written completely or not at all. If `output_dir` already has the result of the same
    source, recipe, dtype and task, nothing is done.

    Args:
        name: A model id on the Hub or a local folder.
        output_dir: The folder to write. Missing parents are created.
        quantization_config: A recipe's name, a dict, an MLXQuantizationConfig, the path of a JSON file, or None for
            float weights. Default "q8".
        dtype: Dtype of unquantized tensors, scales and biases: "auto", "float32", "float16", "bfloat16", or an MLX or
            torch dtype. "auto" (the default) is float16 with a recipe, and the source's dtype without.
        task: The task whose head the folder gets, one of TASKS ("embedding", "text-classification", ...). None (the
            default) follows the architectures of config.json.
        revision: Branch, tag or commit on the Hub. Default: the main branch.
        token: Access token of the Hub; True uses the stored one. Default: as huggingface_hub decides.
        target_size_mb: The most MB (2^20 bytes) that the weights file may take. A recipe with a size target chooses its
            bits to meet it; for others it is only checked. Default: no limit.
        dry_run: Decide, check and predict from headers alone, read remotely for a repo on the Hub, and write nothing.
            A recipe with a size target does read the weights. Default False.
        overwrite: Replace whatever else the folder contains. Default False.
        show_progress: Show progress bars. Default True.

    Returns:
        What was done, with sizes in bytes.

    Raises:
        SizeTargetError: If the weights would exceed target_size_mb.
        RepositoryError: If the repo or folder is not found, or `output_dir` contains something else.
        InputError: If the task is not one of TASKS.
        QuantizationError: If the recipe is unknown or impossible, or the source is already converted.
        ConfigError: If config.json has a value that is not supported.
        UnsupportedModelError: If the model type is neither native nor traceable.
        WeightsError: If tensors are missing, unexpected, of another shape, or not finite.

    Example:
        >>> from mlx_hf_bridge import convert
        >>> result = convert("sentence-transformers/all-MiniLM-L6-v2", "minilm-q8", quantization_config="q8")
        >>> result.action, result.weight_bytes
    """
    recipe, stored, folder = recipe_from(quantization_config), parse_dtype(dtype), Path(output_dir).expanduser()
    if recipe and recipe.has_target and target_size_mb is not None:
        recipe = replace(recipe, target_size_mb=target_size_mb, bits_per_weight=None)
    checkpoint = read_checkpoint(locate(name, HubOptions(revision, token)))
    chosen = task_of(checkpoint.config, task)
    check_replaceable(folder, checkpoint.source)
    if is_occupied(folder) and not overwrite:
        return _existing_result(folder, checkpoint, chosen, recipe, stored, target_size_mb)
    # Choosing bits runs the model, so even a dry run needs the weights.
    chooses = recipe is not None and recipe.has_target
    plan = _plan(checkpoint, chosen, recipe, stored, fetch=chooses or not dry_run)
    if chooses:
        plan = run(lambda: resolve_bits(plan, show_progress))
    check_target(
        plan.weight_bytes, target_size_mb, f"{name} in {recipe_name(recipe)}", _smaller_recipe(plan, target_size_mb)
    )
    facts = (folder, chosen, recipe, plan.source_bytes, plan.weight_bytes)
    modules = module_widths(plan) if chooses else None
    if dry_run:
        return ConversionResult("would convert", *facts, modules=modules)
    written = _write(plan, folder, show_progress)
    return ConversionResult("converted", *facts, written, modules)


def task_of(config: Mapping[str, Any], asked: str | None) -> str:
    """Return the task to convert for.

    Args:
        config: The content of config.json.
        asked: The caller's task, one of TASKS; None follows the architectures of config.json.

    Returns:
        "feature-extraction" or "text-classification".

    Raises:
        InputError: If the task is not one of TASKS.
    """
    if asked is None:
        architectures = config.get("architectures") or []
        classifies = any(str(name).endswith("ForSequenceClassification") for name in architectures)
        return SEQUENCE_CLASSIFICATION if classifies else BASE_TASK
    if asked not in TASKS:
        raise InputError(f"task={asked!r} cannot be converted for; use one of {', '.join(TASKS)}, or leave it out.")
    return TASKS[asked]


def short_name(name: str | Path) -> str:
    """Return a short name of a model.

    Args:
        name: A model id on the Hub or a local folder.

    Returns:
        The last part of the id, or the folder's own name.
    """
    path = Path(name).expanduser()
    return path.resolve().name if path.is_dir() else str(name).rstrip("/").rpartition("/")[2]


def folder_name(short: str, recipe: MLXQuantizationConfig | None, dtype: str | None = None) -> str:
    """Return the usual name of a converted folder: "all-MiniLM-L6-v2-mlx-q8", "...-mlx-fp32".

    Args:
        short: The model's short name (`short_name`).
        recipe: The recipe, None for float weights.
        dtype: "float32", "float16" or "bfloat16", for float weights; None if unknown.

    Returns:
        The folder's name.
    """
    return f"{short}-mlx-{recipe_name(recipe) if recipe else _FLOAT_NAMES.get(dtype or '', 'float')}"


def check_target(size: int, target_size_mb: float | None, what: str, advice: str = "") -> None:
    """Check a size against the target.

    Args:
        size: Bytes of the weights.
        target_size_mb: The most MB (2^20 bytes), None for no limit.
        what: What has that size, for the message.
        advice: What to do about it, for the message; "" for general advice.

    Raises:
        SizeTargetError: If the size exceeds the target.
    """
    if target_size_mb is not None and size > target_size_mb * MB:
        raise SizeTargetError(
            f"the weights of {what} take {size / MB:.1f} MB (1 MB = 2^20 bytes), more than "
            f"target_size_mb={target_size_mb:g}. {advice or 'Ask for fewer bits, or raise the target.'}"
        )


def _existing_result(
    folder: Path,
    checkpoint: Checkpoint,
    task: str,
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
    target_size_mb: float | None,
) -> ConversionResult:
    """Return the result that a folder already has; RepositoryError if it has something else."""
    expected = dtype or (QUANTIZED_DTYPE if recipe else _plan(checkpoint, task, recipe, dtype).dtype)
    metadata = same_result(folder, checkpoint.source, task, recipe, expected)
    weight_bytes, source_bytes = metadata["weight_bytes"], metadata["source_bytes"]
    check_target(weight_bytes, target_size_mb, str(folder))
    return ConversionResult("skipped", folder, task, recipe, source_bytes, weight_bytes=weight_bytes)


def _plan(
    checkpoint: Checkpoint, task: str, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None, fetch: bool = True
) -> Plan:
    if wants_tracing(checkpoint, "auto"):
        return run(lambda: plan_traced(checkpoint, task, recipe, dtype))
    return run(lambda: plan_conversion(checkpoint, task, recipe, dtype, fetch))


def _write(plan: Plan, folder: Path, show_progress: bool) -> int:
    """Write the planned folder and return the bytes of its weights file."""
    written: list[int] = []

    def create(new: Path) -> None:
        metadata = run(lambda: write_conversion(plan, new, show_progress))
        # A list, because write_atomically ignores what `create` returns.
        written.append(metadata["weight_bytes"])

    write_atomically(folder, create)
    logger.info("Wrote %s, weights of %.1f MB", folder, written[0] / MB)
    return written[0]


def _smaller_recipe(plan: Plan, target_size_mb: float | None) -> str:
    """Return advice on a target that is missed: the recipe of most bits that meets it, if there is one."""
    group_size = plan.recipe.group_size if plan.recipe and plan.recipe.mode == "affine" else None
    if plan.recipe is None or target_size_mb is None:
        return ""
    for name, named in RECIPES.items():
        if named.mode != "affine" or named.bits >= plan.recipe.bits:
            continue
        recipe = replace(named, group_size=group_size) if group_size else named
        tensors = [replace(tensor, recipe=recipe) if tensor.recipe else tensor for tensor in plan.tensors.values()]
        if (size := sum(tensor.bytes for tensor in tensors)) <= target_size_mb * MB:
            return f"{name} would take {size / MB:.1f} MB; ask for that, or raise the target."
    return "No fewer bits meet it; raise the target."
