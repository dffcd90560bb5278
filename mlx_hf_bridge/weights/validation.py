"""Checkpoint tensors checked against the model: none missing, none unexpected, all of the right shape and dtype."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo
from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.inference.model import Model, build_model
from mlx_hf_bridge.weights.name_mapping import NameMapping, ParameterSlot, TensorTarget, check_all_resolved, summarize

_PACKED_DTYPES = ("U32", "U8")
_PACKED = (mx.uint32, mx.uint8)

Shape = tuple[int, ...]
Mismatch = tuple[str, Shape, Shape]


@dataclass(frozen=True)
class Tolerance:
    """What the caller has asked to let pass that would otherwise be an error.

    Attributes:
        ignore_mismatched_sizes: Tensors of another shape, and a missing head, are initialized at random
            (transformers' `ignore_mismatched_sizes=True`).
        allow_unexpected: Tensors that the model has no parameter for are dropped, since the caller has changed the
            config (`num_hidden_layers=1`).
    """

    ignore_mismatched_sizes: bool = False
    allow_unexpected: bool = False


STRICT = Tolerance()


@dataclass(frozen=True)
class Fit:
    """How a checkpoint differs from the model in ways that the tolerance lets pass.

    Attributes:
        uninitialized: Parameter slots that no tensor fills, with their shapes.
        missing: Checkpoint names of those slots that the checkpoint has no tensor for.
        mismatched: (name, shape in the file, shape in the model) of tensors of another shape.
        unexpected: Names of tensors that the model has no parameter for.
    """

    uninitialized: Mapping[ParameterSlot, Shape] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def unread(self) -> frozenset[str]:
        """Names of tensors that are not read into the model."""
        return frozenset((*self.unexpected, *(name for name, _, _ in self.mismatched)))


def check_fit(
    names: NameMapping,
    targets: Mapping[str, TensorTarget],
    tensor_infos: Mapping[str, TensorInfo],
    model: Model,
    where: str,
    tolerance: Tolerance = STRICT,
) -> Fit:
    """Check a checkpoint's tensors against the parameters of a model.

    Args:
        names: The family's name tables.
        targets: Tensor name -> target (`resolve_names`).
        tensor_infos: Tensor name -> its dtype and shape, from the file's header.
        model: The model, built but without weights.
        where: The checkpoint's folder, for messages.
        tolerance: What may differ; the default is nothing.

    Returns:
        The differences that the tolerance lets pass.

    Raises:
        WeightsError: If a tensor is missing, unexpected, or of another shape or a wrong dtype; all names are listed.
    """
    fused = {target.path for target in targets.values() if target.is_fused}
    wanted = dict(_parameter_slots(names, model, fused))
    given = {(target.path, target.leaf, target.slice_index): name for name, target in targets.items() if target.path}
    unexpected = [name for slot, name in given.items() if slot not in wanted and not _is_unused(slot[0], model)]
    if not tolerance.allow_unexpected:
        check_all_resolved(unexpected, where)
    missing = {slot: name for slot, (name, _) in wanted.items() if slot not in given}
    new_head = {slot for slot in missing if tolerance.ignore_mismatched_sizes and slot[0].startswith("head.")}
    _check_none_missing([name for slot, name in missing.items() if slot not in new_head], where)
    pairs = {slot: (name, tensor_infos[name], wanted[slot][1]) for slot, name in given.items() if slot in wanted}
    for name, info, parameter in pairs.values():
        _check_dtype(name, info, parameter, where)
    wrong = {slot: pair for slot, pair in pairs.items() if pair[1].shape != pair[2].shape}
    mismatched = [(name, info.shape, tuple(parameter.shape)) for name, info, parameter in wrong.values()]
    # Packed weights of another shape come from another group size or bits, and no new head would explain them.
    if not tolerance.ignore_mismatched_sizes or any(parameter.dtype in _PACKED for _, _, parameter in wrong.values()):
        _check_none_mismatched(mismatched, where)
    uninitialized = {slot: tuple(wanted[slot][1].shape) for slot in (*new_head, *wrong)}
    return Fit(uninitialized, tuple(missing[slot] for slot in new_head), tuple(mismatched), tuple(unexpected))


def _check_dtype(name: str, info: TensorInfo, parameter: mx.array, where: str) -> None:
    # Quantized integers are 32-bit words, the fp modes' scales bytes; any other integer weight is another format's.
    is_packed = parameter.dtype in _PACKED and info.dtype in _PACKED_DTYPES
    if not info.is_float and not is_packed:
        raise WeightsError(
            f"{name} in {where} has the dtype {info.dtype}, expected a float one (F32, F16, BF16). "
            "Take the unquantized checkpoint, and pass quantization_config for packed weights."
        )


def _check_none_mismatched(wrong: list[Mismatch], where: str) -> None:
    if wrong:
        listed = summarize([f"{name} has {file}, expected {model}" for name, file, model in wrong])
        raise WeightsError(
            f"{where} has {len(wrong)} tensors of another shape than config.json says: {listed}. Check that the two "
            "belong together, and num_labels if it was given; ignore_mismatched_sizes=True initializes them at random."
        )


def _parameter_slots(
    names: NameMapping, model: Model, fused: Collection[str | None]
) -> Iterator[tuple[ParameterSlot, tuple[str, mx.array]]]:
    """Yield every slot with its checkpoint name and an array of its shape and dtype.

    Module paths in `fused` are one slot each, since the file holds all of their slices as one tensor.
    """
    for parameter, array in named_parameters(model):
        path, _, leaf = parameter.rpartition(".")
        modules = names.sources_of([path])[0].modules[: 1 if path in fused else None]
        # mx.split is lazy: only the shapes and dtypes of its parts are read. A scalar has no axis to split.
        parts = mx.split(array, len(modules)) if len(modules) > 1 else [array]
        for index, (module, part) in enumerate(zip(modules, parts, strict=True)):
            yield (path, leaf, index), (f"{module}.{leaf}", part)


def named_parameters(model: Model) -> list[tuple[str, mx.array]]:
    """Return the model's parameters by dotted name, as `torch.nn.Module.named_parameters` does."""
    flat: Any = tree_flatten(model.parameters())
    return list(flat)


def _is_unused(path: str, model: Model) -> bool:
    """Whether a module path lies in a pooler that the model was built without."""
    return path.startswith("pooler.") and "pooler" not in model


def _check_none_missing(missing: list[str], where: str) -> None:
    if missing:
        raise WeightsError(
            f"{where} lacks {len(missing)} tensors that the model needs: {summarize(missing)}. Give a checkpoint "
            "that has them; one that was not trained for this task has no head for it, and the logits of a new head "
            "would be random."
        )


def pooler_names(names: NameMapping, family: Family, config: EncoderConfig) -> list[str]:
    """Return the checkpoint names of the tensors that the base model's pooler reads; [] for a family without one."""
    slots = dict(_parameter_slots(names, build_model(family, config, BASE_TASK, pooler=True), ())).items()
    return [name for (path, _, _), (name, _) in slots if path.startswith("pooler.")]
