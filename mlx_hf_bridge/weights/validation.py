"""Checkpoint tensors held against the model: all there, in shape, and none left over."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo
from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.inference.model import Model, build
from mlx_hf_bridge.weights.name_mapping import NameMapping, ParameterSlot, TensorTarget, check_all_resolved, summarize

_PACKED_DTYPES = ("U32", "U8")
_PACKED = (mx.uint32, mx.uint8)

Shape = tuple[int, ...]
Mismatch = tuple[str, Shape, Shape]


@dataclass(frozen=True)
class Tolerance:
    """What a caller has asked for that would else be an error.

    ignore_mismatched_sizes: tensors of another shape, and a head that is missing, are initialized at random.
    allow_unexpected: tensors that the model has no parameter for are dropped, since the caller has changed the config
    (`num_hidden_layers=1`).
    """

    ignore_mismatched_sizes: bool = False
    allow_unexpected: bool = False


STRICT = Tolerance()


@dataclass(frozen=True)
class Fit:
    """What does not fit and is let pass: spots (module, leaf, part) of the model that no tensor fills, and the reverse.

    empty: their shapes. missing: names of those that have no tensor. mismatched: (name, its shape, the model's).
    unplaced: tensors that belong nowhere in the model.
    """

    uninitialized: Mapping[ParameterSlot, Shape] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    unexpected: tuple[str, ...] = ()

    @property
    def unread(self) -> frozenset[str]:
        """Tensors that are not read into the model."""
        return frozenset((*self.unexpected, *(name for name, _, _ in self.mismatched)))


def check_fit(
    names: NameMapping,
    targets: Mapping[str, TensorTarget],
    tensor_infos: Mapping[str, TensorInfo],
    model: Model,
    where: str,
    tolerance: Tolerance = STRICT,
) -> Fit:
    """WeightsError lists tensors that the model lacks, has no parameter for, or has in another shape or kind.

    -> what is amiss that `tolerance` lets pass.
    """
    wholes = {place.path for place in targets.values() if place.is_fused}
    wanted = dict(_parameters(names, model, wholes))
    given = {(place.path, place.leaf, place.slice_index): name for name, place in targets.items() if place.path}
    unplaced = [name for spot, name in given.items() if spot not in wanted and not _is_unused(spot[0], model)]
    if not tolerance.allow_unexpected:
        check_all_resolved(unplaced, where)
    missing = {spot: label for spot, (label, _) in wanted.items() if spot not in given}
    fresh = {spot for spot in missing if tolerance.ignore_mismatched_sizes and spot[0].startswith("head.")}
    _refuse_missing([label for spot, label in missing.items() if spot not in fresh], where)
    fitted = {spot: (name, tensor_infos[name], wanted[spot][1]) for spot, name in given.items() if spot in wanted}
    for name, info, parameter in fitted.values():
        _check_kind(name, info, parameter, where)
    wrong = {spot: found for spot, found in fitted.items() if found[1].shape != found[2].shape}
    mismatched = [(name, info.shape, tuple(like.shape)) for name, info, like in wrong.values()]
    if not tolerance.ignore_mismatched_sizes or any(like.dtype in _PACKED for _, _, like in wrong.values()):
        _refuse_mismatched(mismatched, where)
    empty = {spot: tuple(wanted[spot][1].shape) for spot in (*fresh, *wrong)}
    return Fit(empty, tuple(missing[spot] for spot in fresh), tuple(mismatched), tuple(unplaced))


def _check_kind(name: str, info: TensorInfo, parameter: mx.array, where: str) -> None:
    packed = parameter.dtype in _PACKED and info.dtype in _PACKED_DTYPES
    if not info.is_float and not packed:
        raise WeightsError(
            f"{name} in {where} has the dtype {info.dtype}, expected a float one (F32, F16, BF16). "
            "Take the unquantised checkpoint, and pass quantization_config for packed weights."
        )


def _refuse_mismatched(wrong: list[Mismatch], where: str) -> None:
    if wrong:
        listed = summarize([f"{name} has {file}, expected {model}" for name, file, model in wrong])
        raise WeightsError(
            f"{where} has {len(wrong)} tensors of another shape than config.json says: {listed}. Check that the two "
            "belong together, and num_labels if it was given; ignore_mismatched_sizes=True draws them at random."
        )


def _parameters(
    names: NameMapping, model: Model, wholes: Collection[str | None]
) -> Iterator[tuple[ParameterSlot, tuple[str, mx.array]]]:
    """(module, leaf, part) -> its name in the checkpoint, and an array of its shape and dtype; of `wholes` one part."""
    for parameter, array in named_parameters(model):
        path, _, leaf = parameter.rpartition(".")
        modules = names.sources_of([path])[0].modules[: 1 if path in wholes else None]
        for part, (module, like) in enumerate(zip(modules, mx.split(array, len(modules)), strict=True)):
            yield (path, leaf, part), (f"{module}.{leaf}", like)


def named_parameters(model: Model) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(model.parameters())
    return list(flat)


def _is_unused(path: str, model: Model) -> bool:
    """Whether a tensor belongs to a pooler that this model does without."""
    return path.startswith("pooler.") and "pooler" not in model


def _refuse_missing(missing: list[str], where: str) -> None:
    if missing:
        raise WeightsError(
            f"{where} lacks {len(missing)} tensors that the model needs: {summarize(missing)}. Give a checkpoint "
            "that has them; one that was not trained for this task has no head for it, and a new head would answer at "
            "random."
        )


def pooler_names(names: NameMapping, family: Family, config: EncoderConfig) -> list[str]:
    """The tensors that a pooler of the bare encoder would read; [] for a family that has none."""
    labels = dict(_parameters(names, build(family, config, BASE_TASK, pooler=True), ())).items()
    return [label for (path, _, _), (label, _) in labels if path.startswith("pooler.")]
