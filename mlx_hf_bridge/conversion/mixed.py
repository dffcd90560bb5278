"""A plan whose bits and groups are yet to be chosen: sensitivities are measured, and the widths are solved for."""

import logging
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.conversion.calibrated import create_calibration_job, task_of, tensor_targets
from mlx_hf_bridge.conversion.plan import Plan, TensorPlan
from mlx_hf_bridge.errors import SizeTargetError
from mlx_hf_bridge.quantization.methods import RUNS_MODEL
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.quantization.resume_store import ResumeStore
from mlx_hf_bridge.quantization.sensitivity import predict_errors
from mlx_hf_bridge.quantization.solver import Choice, choose_widths, min_bytes
from mlx_hf_bridge.quantization.widths import FLOAT_BITS, GROUP_SIZES, BitWidth

logger = logging.getLogger(__name__)

# A safetensors header has the name, dtype, shape and offsets of each tensor.
_HEADER_BYTES = 90


def resolve_bits(plan: Plan, show_progress: bool = True) -> Plan:
    """The plan with a width for every module, where its recipe has a target; else the plan itself.

    Raises SizeTargetError that names the smallest size, for a target that no choice meets.
    """
    recipe = plan.recipe
    if recipe is None or not recipe.has_target or plan.bits_resolved:
        return plan
    members = _members(plan)
    widths = [
        BitWidth(bits, size) for bits in recipe.bits_choices if bits != FLOAT_BITS for size in GROUP_SIZES["affine"]
    ]
    with (
        tempfile.TemporaryDirectory() as scratch,
        tqdm(total=len(members), desc="Measuring", unit="module", disable=None if show_progress else True) as bar,
    ):
        job = create_calibration_job(plan, Path(scratch), ResumeStore(None), lambda what: _advance(bar))
        errors = predict_errors(job, widths, recipe.method in RUNS_MODEL)
    choices = {
        path: [Choice(width, _bytes(tensors, width), error) for width, error in errors[path].items()]
        + ([Choice(None, _bytes(tensors, None), 0.0)] if FLOAT_BITS in recipe.bits_choices else [])
        for path, tensors in members.items()
    }
    chosen = choose_widths(choices, _budget(plan, members, choices))
    for path, choice in chosen.items():
        logger.info("%s: %s", path, choice.width or "float")
    names = {tensor.name: chosen[path].width for path, tensors in members.items() for tensor in tensors}
    tensors = {
        name: replace(tensor, recipe=_with(tensor, names[tensor.name])) if tensor.name in names else tensor
        for name, tensor in plan.tensors.items()
    }
    return replace(plan, tensors=tensors, bits_resolved=True)


def _advance(bar: Any) -> None:
    bar.update()


def module_widths(plan: Plan) -> dict[str, dict[str, int] | None]:
    """The widths of a settled plan by checkpoint module, as `modules` of a recipe takes them; None for float."""
    found: dict[str, dict[str, int] | None] = {}
    for name, place in tensor_targets(plan, task_of(plan)).items():
        tensor = plan.tensors[name]
        if tensor.recipe:
            found[place.module] = {"bits": tensor.recipe.bits, "group_size": tensor.recipe.group_size}
        elif place.leaf == "weight" and len(tensor.info.shape) > 1:
            found[place.module] = None
    return dict(sorted(found.items()))


def _with(tensor: TensorPlan, width: BitWidth | None) -> MLXQuantizationConfig | None:
    if width is None or tensor.recipe is None:
        return None
    return replace(tensor.recipe, bits=width.bits, group_size=width.group_size)


def _members(plan: Plan) -> dict[str, list[TensorPlan]]:
    """Our module paths -> the tensors that are packed together in one."""
    found: dict[str, list[TensorPlan]] = defaultdict(list)
    for name, place in tensor_targets(plan, task_of(plan)).items():
        if place.path and place.leaf == "weight" and plan.tensors[name].recipe:
            found[place.path].append(plan.tensors[name])
    return found


def _bytes(tensors: list[TensorPlan], width: BitWidth | None) -> int:
    return sum(replace(tensor, recipe=_with(tensor, width)).bytes for tensor in tensors)


def _budget(plan: Plan, members: Mapping[str, list[TensorPlan]], choices: Mapping[str, list[Choice]]) -> int:
    """The bytes that packed modules may take; SizeTargetError where they cannot be so few."""
    recipe = plan.recipe
    assert recipe is not None
    least = min_bytes(choices)
    weights = sum(math.prod(tensor.info.shape) for tensors in members.values() for tensor in tensors)
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
    packed = {tensor.name for tensors in members.values() for tensor in tensors}
    rest = sum(tensor.bytes for tensor in plan.tensors.values() if tensor.name not in packed)
    header = sum(
        (_HEADER_BYTES + len(tensor.name)) * (3 if tensor.name in packed else 1) for tensor in plan.tensors.values()
    )
    budget = int(recipe.target_size_mb * MB) - rest - header
    if budget < least:
        raise SizeTargetError(
            f"target_size_mb={recipe.target_size_mb:g} cannot be met: with bits_choices={list(recipe.bits_choices)} "
            f"the smallest possible is {math.ceil((least + rest + header) / MB * 100) / 100:.2f} MB (1 MB = 2^20 "
            "bytes). Raise it, or allow fewer bits."
        )
    return budget
