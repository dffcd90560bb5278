"""A LoRA adapter added into its base's tensors: W + s B A, or DoRA's m (W + s B A) / |W + s B A|.

Reference: peft/tuners/lora/layer.py (Linear.merge, Embedding.merge), arXiv 2106.09685, 2402.09353.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from mlx_hf_bridge.checkpoints.adapter import Adapter, load_adapter_tensors
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, WeightFile, tensor_info
from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.weights.name_mapping import NameMapping, ParameterSlot, TensorTarget, summarize

_PREFIX = "base_model.model."
_LORA = re.compile(r"(.+)\.lora_(A|B|embedding_A|embedding_B|magnitude_vector)(?:\.default)?(?:\.(weight|bias))?")
_WRAPPERS = (".modules_to_save", ".base_layer", ".default")
_COPY = ".original_module."

Parts = Mapping[str, mx.array]


@dataclass(frozen=True)
class LoraUpdate:
    """What is added to a base tensor, or to those of its rows that begin at `start` (queries of a joined tensor)."""

    parts: Parts
    scale: float
    start: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.parts)

    def apply_to(self, array: mx.array) -> mx.array:
        """The base tensor with its sum."""
        if self.start is None:
            return _summed(array, self.parts, self.scale)
        stop = self.start + self.shape[0]
        rows = _summed(array[self.start : stop], self.parts, self.scale)
        return mx.concatenate([array[: self.start], rows, array[stop:]])


@dataclass
class AdapterMerge:
    """What an adapter does to its base.

    sums: base tensor -> its sums. values: tensors in the place of the base's, or beside.
    """

    updates: dict[str, list[LoraUpdate]] = field(default_factory=lambda: defaultdict(list))
    replacements: dict[str, mx.array] = field(default_factory=dict)


class MergedFile:
    """A base's weight file, its tensors read as the adapter changes them."""

    def __init__(self, file: WeightFile, merge: AdapterMerge) -> None:
        self.path = file.path
        self._file, self._merge = file, merge
        self.tensor_infos = {
            name: tensor_info(merge.replacements[name]) if name in merge.replacements else info
            for name, info in file.tensor_infos.items()
        }

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        for name, array in self._file.arrays():
            if name in self._merge.replacements:
                array = self._merge.replacements[name]
            for one in self._merge.updates.get(name, ()):
                array = one.apply_to(array)
            yield name, array


class AdapterFile:
    """An adapter's own tensors that its base does not have: a classifier, say."""

    def __init__(self, path: Path, arrays: Mapping[str, mx.array]) -> None:
        self.path = path
        self._arrays = arrays
        self.tensor_infos = {name: tensor_info(array) for name, array in arrays.items()}

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        yield from self._arrays.items()


def merge_adapter(files: list[WeightFile], adapter: Adapter, names: NameMapping) -> list[WeightFile]:
    """The base's weight files with the adapter in them; WeightsError for tensors that have nowhere to go."""
    tensor_infos = {name: info for file in files for name, info in file.tensor_infos.items()}
    path, tensors = load_adapter_tensors(adapter)
    merge = _planned(adapter, names, tensor_infos, tensors, str(path))
    added = {name: array for name, array in merge.replacements.items() if name not in tensor_infos}
    return [*(MergedFile(file, merge) for file in files), AdapterFile(path, added)]


def _planned(
    adapter: Adapter,
    names: NameMapping,
    tensor_infos: Mapping[str, TensorInfo],
    tensors: Mapping[str, mx.array],
    where: str,
) -> AdapterMerge:
    base = _Base.of(names, tensor_infos)
    modules: dict[str, dict[str, mx.array]] = defaultdict(dict)
    merge, lost = AdapterMerge(), []
    for name, array in tensors.items():
        plain = name.removeprefix(_PREFIX)
        if match := _LORA.fullmatch(plain):
            modules[match[1]][f"{match[2]}{'.bias' if match[3] == 'bias' else ''}"] = array
        elif _COPY not in plain:
            own = _unwrapped(plain)
            place = names.resolve(own)
            merge.replacements[base.spots.get(_spot(place), own) if place else own] = array
            lost += [] if place else [name]
    for module, parts in modules.items():
        lost += _add_module(merge, base, names, module, parts, adapter)
    if lost:
        raise WeightsError(
            f"{where} has {len(lost)} tensors that the base has no place for, or that are no plain LoRA: "
            f"{summarize(lost)}. Check that base_model_name_or_path is its base, or merge it with peft "
            "(merge_and_unload)."
        )
    _check_shapes(merge, tensor_infos, where)
    return merge


@dataclass(frozen=True)
class _Base:
    """The base's tensors by what they are in the model; `joined` holds those that are several modules in one."""

    spots: Mapping[ParameterSlot, str]
    joined: Mapping[tuple[str, str], str]
    tensor_infos: Mapping[str, TensorInfo]

    @classmethod
    def of(cls, names: NameMapping, tensor_infos: Mapping[str, TensorInfo]) -> "_Base":
        places = {name: place for name in tensor_infos if (place := names.resolve(name)) is not None}
        joined = {_spot(place)[:2]: name for name, place in places.items() if place.is_fused}
        return cls({_spot(place): name for name, place in places.items()}, joined, tensor_infos)

    def rows(self, names: NameMapping, place: TensorTarget | None, count: int) -> tuple[str, int | None] | None:
        """The tensor that `count` rows are added to and where they begin in it, None = they are all of it.

        Files of some families hold queries, keys and values as one tensor, which adapters know as three.
        """
        if place is None:
            return None
        ours, leaf, part = _spot(place)
        whole = self.joined.get((ours, leaf))
        if whole is None:
            found = self.spots.get((ours, leaf, part))
            return None if found is None else (found, None)
        parts = len(names.sources_of([ours])[0].modules)
        return whole, part * count if self.tensor_infos[whole].shape[0] == parts * count else None


def _add_module(
    merge: AdapterMerge, base: _Base, names: NameMapping, module: str, parts: dict[str, mx.array], adapter: Adapter
) -> list[str]:
    """Plan one module's sums -> the tensors that have nowhere to go."""
    first, second = ("embedding_A", "embedding_B") if "embedding_A" in parts else ("A", "B")
    if not {first, second} <= parts.keys():
        return [f"{module}.lora_{part}" for part in parts]
    weight = {part: array for part, array in parts.items() if part != "B.bias"}
    target = base.rows(names, names.resolve(_unwrapped(f"{module}.weight")), _shape(weight)[0])
    if target is None:
        return [f"{module}.lora_{part}" for part in parts]
    scale = adapter.scale(module, parts[first].shape[0])
    merge.updates[target[0]].append(LoraUpdate(weight, scale, target[1]))
    if "B.bias" not in parts:
        return []
    bias = base.rows(names, names.resolve(_unwrapped(f"{module}.bias")), parts["B.bias"].shape[0])
    if bias is None:
        return [f"{module}.lora_B.bias"]
    merge.updates[bias[0]].append(LoraUpdate({"B.bias": parts["B.bias"]}, scale, bias[1]))
    return []


def _check_shapes(merge: AdapterMerge, tensor_infos: Mapping[str, TensorInfo], where: str) -> None:
    for name, one in ((name, one) for name, updates in merge.updates.items() for one in updates):
        whole = tensor_info(merge.replacements[name]).shape if name in merge.replacements else tensor_infos[name].shape
        shape = whole if one.start is None else (one.shape[0], *whole[1:])
        if one.shape != shape:
            raise WeightsError(
                f"{where} adds {one.shape} to {name}, which has {shape} in its base. Check that "
                "base_model_name_or_path is the model that it was trained on, or merge it with peft (merge_and_unload)."
            )


def _shape(parts: Parts) -> tuple[int, ...]:
    if "B.bias" in parts:
        return tuple(parts["B.bias"].shape)
    if "embedding_A" in parts:
        return (parts["embedding_A"].shape[1], parts["embedding_B"].shape[0])
    return (parts["B"].shape[0], *parts["A"].shape[1:])


def _summed(array: mx.array, parts: Parts, scale: float) -> mx.array:
    """A base tensor with its sum, in float32, back in its dtype."""
    weight, own = array.astype(mx.float32), {part: value.astype(mx.float32) for part, value in parts.items()}
    if "B.bias" in own:
        return (weight + scale * own["B.bias"]).astype(array.dtype)
    if "embedding_A" in own:
        return (weight + scale * (own["embedding_B"] @ own["embedding_A"]).T).astype(array.dtype)
    summed = weight + scale * (own["B"] @ own["A"])
    if "magnitude_vector" in own:
        lengths = mx.linalg.norm(summed, axis=1, keepdims=True)
        summed = own["magnitude_vector"].reshape(-1, 1) * summed / lengths
    return summed.astype(array.dtype)


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(f"{wrapper}.", ".")
    return name


def _spot(place: TensorTarget) -> ParameterSlot:
    """One tensor of the model, whatever a file calls it."""
    return (place.path or place.module, place.leaf, place.slice_index)
