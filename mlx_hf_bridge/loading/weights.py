"""Checkpoint tensors fitted into the model: all there, in shape, and none left over; then put in."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.loading.names import Names, Place, refuse_unplaced, some
from mlx_hf_bridge.loading.tensors import TensorInfo

_PACKED_DTYPES = ("U32", "U8")


def check_fit(
    names: Names, placed: Mapping[str, Place], infos: Mapping[str, TensorInfo], model: Model, where: str
) -> None:
    """WeightsError lists tensors that the model lacks, has no parameter for, or has in another shape or kind."""
    wholes = {place.ours for place in placed.values() if place.is_whole}
    wanted = dict(_parameters(names, model, wholes))
    given = {(place.ours, place.leaf, place.part): name for name, place in placed.items() if place.ours}
    refuse_unplaced(
        [name for spot, name in given.items() if spot not in wanted and not _is_unused(spot[0], model)], where
    )
    _refuse_missing([label for spot, (label, _) in wanted.items() if spot not in given], where)
    fitted = [(name, infos[name], wanted[spot][1]) for spot, name in given.items() if spot in wanted]
    for name, info, parameter in fitted:
        packed = parameter.dtype in (mx.uint32, mx.uint8) and info.dtype in _PACKED_DTYPES
        if not info.is_float and not packed:
            raise WeightsError(
                f"{name} in {where} has the dtype {info.dtype}, expected a float one (F32, F16, BF16). "
                "Take the unquantised checkpoint, and pass quantization_config for packed weights."
            )
    if wrong := [
        f"{name} has {info.shape}, expected {like.shape}" for name, info, like in fitted if info.shape != like.shape
    ]:
        raise WeightsError(
            f"{where} has {len(wrong)} tensors of another shape than config.json says: {some(wrong)}. "
            "Check that the two belong together."
        )


def _parameters(
    names: Names, model: Model, wholes: Collection[str | None]
) -> Iterator[tuple[tuple[str, str, int], tuple[str, mx.array]]]:
    """(module, leaf, part) -> its name in the checkpoint, and an array of its shape and dtype; of `wholes` one part."""
    for parameter, array in _flat(model):
        path, _, leaf = parameter.rpartition(".")
        modules = names.targets([path])[0].modules[: 1 if path in wholes else None]
        for part, (module, like) in enumerate(zip(modules, mx.split(array, len(modules)), strict=True)):
            yield (path, leaf, part), (f"{module}.{leaf}", like)


def _flat(model: Model) -> list[tuple[str, mx.array]]:
    flat: Any = tree_flatten(model.parameters())
    return list(flat)


def _is_unused(path: str, model: Model) -> bool:
    """Whether a tensor belongs to a pooler that this model does without."""
    return path.startswith("pooler.") and "pooler" not in model


def _refuse_missing(missing: list[str], where: str) -> None:
    if missing:
        raise WeightsError(
            f"{where} lacks {len(missing)} tensors that the model needs: {some(missing)}. Give a checkpoint that has "
            "them; one that was not trained for this task has no head for it, and a new head would answer at random."
        )


def fill(model: Model, placed: Mapping[str, Place], arrays: Mapping[str, mx.array]) -> None:
    """Put the arrays into the model, parts of joined modules one below the other."""
    parts: dict[str, dict[int, mx.array]] = defaultdict(dict)
    for name, place in placed.items():
        if place.ours:
            parts[f"{place.ours}.{place.leaf}"][place.part] = arrays[name]
    wanted = {parameter for parameter, _ in _flat(model)}
    joined = [(name, _join(found)) for name, found in parts.items() if name in wanted]
    model.load_weights(joined, strict=True)


def _join(parts: Mapping[int, mx.array]) -> mx.array:
    ordered = [parts[part] for part in sorted(parts)]
    return ordered[0] if len(ordered) == 1 else mx.concatenate(ordered, axis=0)
