"""Bits and groups chosen for each module of a plan to meet a size, from measured sensitivities."""

import logging
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.conversion.calibrated import calibration_task, create_calibration_job, tensor_targets
from mlx_hf_bridge.conversion.method_choice import choose_rounding
from mlx_hf_bridge.conversion.plan import Plan, TensorPlan
from mlx_hf_bridge.errors import SizeTargetError
from mlx_hf_bridge.quantization.methods import RUNS_MODEL
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.quantization.sensitivity import predict_errors
from mlx_hf_bridge.quantization.solver import Choice, choose_widths, min_bytes
from mlx_hf_bridge.quantization.widths import FLOAT_BITS, GROUP_SIZES, BitWidth
from mlx_hf_bridge.runtime.progress import ProgressBar

logger = logging.getLogger(__name__)

# Bytes of a tensor's entry in a safetensors header besides its name: dtype, shape and offsets as JSON. A guess that is
# too small would let the file exceed its target.
_HEADER_BYTES = 90


def resolve_bits(plan: Plan, show_progress: bool = True) -> Plan:
    """Choose bits and group size for every module of a plan whose recipe has a size target.

    Args:
        plan: The planned conversion; returned as it is if its recipe has no target or its bits are resolved.
        show_progress: Whether to show a progress bar.

    Returns:
        The plan with the chosen bits.

    Raises:
        SizeTargetError: If no choice meets the target; the message names the smallest possible size.
    """
    recipe = plan.recipe
    if recipe is None or not recipe.has_target or plan.bits_resolved:
        return plan
    by_module = _tensors_by_module(plan)
    widths = [
        BitWidth(bits, size) for bits in recipe.bits_choices if bits != FLOAT_BITS for size in GROUP_SIZES["affine"]
    ]
    with (
        tempfile.TemporaryDirectory() as scratch,
        ProgressBar(
            total=len(by_module), desc="Measuring", unit="module", disable=None if show_progress else True
        ) as bar,
    ):
        job = create_calibration_job(plan, Path(scratch), ResumeStore(None), lambda label: _advance(bar))
        # Methods that run the model leave less error in linear layers than the measured plain rounding.
        errors = predict_errors(job, widths, choose_rounding(plan).method in RUNS_MODEL)
    choices = {
        path: [Choice(width, _bytes(tensors, width), error) for width, error in errors[path].items()]
        + ([Choice(None, _bytes(tensors, None), 0.0)] if FLOAT_BITS in recipe.bits_choices else [])
        for path, tensors in by_module.items()
    }
    chosen = choose_widths(choices, _budget(plan, by_module, choices))
    for path, choice in chosen.items():
        logger.info("%s: %s", path, choice.width or "float")
    names = {tensor.name: chosen[path].width for path, tensors in by_module.items() for tensor in tensors}
    tensors = {
        name: replace(tensor, recipe=_with_width(tensor, names[tensor.name])) if tensor.name in names else tensor
        for name, tensor in plan.tensors.items()
    }
    return replace(plan, tensors=tensors, bits_resolved=True)


def _advance(bar: Any) -> None:
    bar.update()


def module_widths(plan: Plan) -> dict[str, dict[str, int] | None]:
    """Return the resolved widths by checkpoint module, in the form of a recipe's `modules`; None for float."""
    found: dict[str, dict[str, int] | None] = {}
    for name, target in tensor_targets(plan, calibration_task(plan)).items():
        tensor = plan.tensors[name]
        if tensor.recipe:
            found[target.module] = {"bits": tensor.recipe.bits, "group_size": tensor.recipe.group_size}
        elif target.leaf == "weight" and len(tensor.info.shape) > 1:
            found[target.module] = None
    return dict(sorted(found.items()))


def _with_width(tensor: TensorPlan, width: BitWidth | None) -> MLXQuantizationConfig | None:
    if width is None or tensor.recipe is None:
        return None
    return replace(tensor.recipe, bits=width.bits, group_size=width.group_size)


def _tensors_by_module(plan: Plan) -> dict[str, list[TensorPlan]]:
    """Return the model's module paths with the tensors that are fused and quantized in each."""
    found: dict[str, list[TensorPlan]] = defaultdict(list)
    for name, target in tensor_targets(plan, calibration_task(plan)).items():
        if target.path and target.leaf == "weight" and plan.tensors[name].recipe:
            found[target.path].append(plan.tensors[name])
    return found


def _bytes(tensors: list[TensorPlan], width: BitWidth | None) -> int:
    return sum(replace(tensor, recipe=_with_width(tensor, width)).bytes for tensor in tensors)


def _budget(plan: Plan, by_module: Mapping[str, list[TensorPlan]], choices: Mapping[str, list[Choice]]) -> int:
    """Return the bytes that quantized modules may take together; SizeTargetError if no choice is so small."""
    recipe = plan.recipe
    assert recipe is not None
    least = min_bytes(choices)
    weights = sum(math.prod(tensor.info.shape) for tensors in by_module.values() for tensor in tensors)
    if recipe.bits_per_weight is not None:
        budget = int(recipe.bits_per_weight * weights / 8)
        if budget < least:
            raise SizeTargetError(
                f"bits_per_weight={recipe.bits_per_weight:g} cannot be met: with bits_choices="
                f"{list(recipe.bits_choices)} the smallest is {8 * least / weights:.4g}, scales included. Raise it, or "
                "allow fewer bits."
            )
        return budget
    assert recipe.target_size_mb is not None
    quantized = {tensor.name for tensors in by_module.values() for tensor in tensors}
    rest = sum(tensor.bytes for tensor in plan.tensors.values() if tensor.name not in quantized)
    # A quantized tensor has three entries: weight, scales and biases.
    header = sum(
        (_HEADER_BYTES + len(tensor.name)) * (3 if tensor.name in quantized else 1) for tensor in plan.tensors.values()
    )
    # The target is the size of the file, which holds float tensors and the header too.
    budget = int(recipe.target_size_mb * MB) - rest - header
    if budget < least:
        raise SizeTargetError(
            f"target_size_mb={recipe.target_size_mb:g} cannot be met: with bits_choices={list(recipe.bits_choices)} "
            f"the smallest possible is {math.ceil((least + rest + header) / MB * 100) / 100:.2f} MB (1 MB = 2^20 "
            "bytes). Raise it, or allow fewer bits."
        )
    return budget
