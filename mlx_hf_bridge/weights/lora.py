"""A LoRA adapter merged into its base's tensors: W + s B A, or DoRA's m (W + s B A) / |W + s B A|.

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
# What peft inserts into module paths, and where it stores the unused original of a module in modules_to_save.
_WRAPPERS = (".modules_to_save", ".base_layer", ".default")
_ORIGINAL = ".original_module."

# "A", "B", "embedding_A", "embedding_B", "magnitude_vector" or "B.bias" -> array.
Factors = Mapping[str, mx.array]


@dataclass(frozen=True)
class LoraUpdate:
    """What an adapter adds to one base tensor.

    Attributes:
        factors: The adapter's matrices of one module.
        scale: alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA.
        start: The first row to change in a fused tensor (queries, keys and values in one); None for the whole tensor.
    """

    factors: Factors
    scale: float
    start: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the update."""
        return _shape(self.factors)

    def apply_to(self, array: mx.array) -> mx.array:
        """Return the base tensor with the update added."""
        if self.start is None:
            return _merge(array, self.factors, self.scale)
        stop = self.start + self.shape[0]
        # The adapter was trained on separate modules, of which this base has the rows in one tensor.
        rows = _merge(array[self.start : stop], self.factors, self.scale)
        return mx.concatenate([array[: self.start], rows, array[stop:]])


@dataclass
class AdapterMerge:
    """Everything that an adapter does to its base.

    Attributes:
        updates: Base tensor name -> updates that are added to it.
        replacements: Tensor name -> array that replaces the base's, or that the base does not have.
    """

    updates: dict[str, list[LoraUpdate]] = field(default_factory=lambda: defaultdict(list))
    replacements: dict[str, mx.array] = field(default_factory=dict)


class MergedFile:
    """A weight file of the base whose tensors are read with the adapter merged."""

    def __init__(self, file: WeightFile, merge: AdapterMerge) -> None:
        self.path = file.path
        self._file, self._merge = file, merge
        replaced = merge.replacements
        self.tensor_infos = {
            name: tensor_info(replaced[name]) if name in replaced else info for name, info in file.tensor_infos.items()
        }

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the name and merged array of every tensor."""
        for name, array in self._file.arrays():
            if name in self._merge.replacements:
                array = self._merge.replacements[name]
            for update in self._merge.updates.get(name, ()):
                array = update.apply_to(array)
            yield name, array


class AdapterFile:
    """The adapter's tensors that its base does not have, such as a classifier, as a weight file."""

    def __init__(self, path: Path, arrays: Mapping[str, mx.array]) -> None:
        self.path = path
        self._arrays = arrays
        self.tensor_infos = {name: tensor_info(array) for name, array in arrays.items()}

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield the name and array of every tensor."""
        yield from self._arrays.items()


def merge_adapter(files: list[WeightFile], adapter: Adapter, names: NameMapping) -> list[WeightFile]:
    """Return the base's weight files with the adapter merged.

    Args:
        files: The base's weight files.
        adapter: The adapter.
        names: The name tables of the base's family.

    Returns:
        A merged file for each file of the base, and one with the tensors that the base does not have.

    Raises:
        WeightsError: If the base lacks a tensor that the adapter changes, or has it in another shape.
    """
    tensor_infos = {name: info for file in files for name, info in file.tensor_infos.items()}
    path, tensors = load_adapter_tensors(adapter)
    if not tensors:
        raise WeightsError(f"{path} has no tensors, so it changes nothing. Take the adapter's original file.")
    merge = _plan_merge(adapter, names, tensor_infos, tensors, str(path))
    added = {name: array for name, array in merge.replacements.items() if name not in tensor_infos}
    return [*(MergedFile(file, merge) for file in files), AdapterFile(path, added)]


def _plan_merge(
    adapter: Adapter,
    names: NameMapping,
    tensor_infos: Mapping[str, TensorInfo],
    tensors: Mapping[str, mx.array],
    where: str,
) -> AdapterMerge:
    base = _Base.of(names, tensor_infos)
    modules: dict[str, dict[str, mx.array]] = defaultdict(dict)
    merge, unknown = AdapterMerge(), []
    for name, array in tensors.items():
        plain = name.removeprefix(_PREFIX)
        if match := _LORA.fullmatch(plain):
            modules[match[1]][f"{match[2]}{'.bias' if match[3] == 'bias' else ''}"] = array
        # The unused original is the base's own tensor.
        elif _ORIGINAL not in plain:
            unwrapped = _strip_wrappers(plain)
            target = names.resolve(unwrapped)
            merge.replacements[base.tensors.get(_slot(target), unwrapped) if target else unwrapped] = array
            # Collected, so that one error lists all of them.
            unknown += [] if target else [name]
    for module, factors in modules.items():
        unknown += _add_module(merge, base, names, module, factors, adapter)
    if unknown:
        raise WeightsError(
            f"{where} has {len(unknown)} tensors that the base has no parameter for, or that are no plain LoRA: "
            f"{summarize(unknown)}. Check that base_model_name_or_path is its base, or merge it with peft "
            "(merge_and_unload)."
        )
    _check_shapes(merge, tensor_infos, where)
    return merge


@dataclass(frozen=True)
class _Base:
    """The base's tensor names by parameter slot; `fused` has those that hold several modules in one."""

    tensors: Mapping[ParameterSlot, str]
    fused: Mapping[tuple[str, str], str]
    tensor_infos: Mapping[str, TensorInfo]

    @classmethod
    def of(cls, names: NameMapping, tensor_infos: Mapping[str, TensorInfo]) -> "_Base":
        targets = {name: target for name in tensor_infos if (target := names.resolve(name)) is not None}
        fused = {_slot(target)[:2]: name for name, target in targets.items() if target.is_fused}
        return cls({_slot(target): name for name, target in targets.items()}, fused, tensor_infos)

    def rows(self, names: NameMapping, target: TensorTarget | None, count: int) -> tuple[str, int | None] | None:
        """Return the tensor that `count` rows are added to and their first row in it, None = the whole tensor.

        Checkpoints of some families hold queries, keys and values as one tensor, which adapters know as three.
        """
        if target is None:
            return None
        path, leaf, slice_index = _slot(target)
        name = self.fused.get((path, leaf))
        if name is None:
            found = self.tensors.get((path, leaf, slice_index))
            return None if found is None else (found, None)
        slices = len(names.sources_of([path])[0].modules)
        return name, slice_index * count if self.tensor_infos[name].shape[0] == slices * count else None


def _add_module(
    merge: AdapterMerge, base: _Base, names: NameMapping, module: str, factors: dict[str, mx.array], adapter: Adapter
) -> list[str]:
    """Plan the updates of one module and return the names of tensors that the base has no parameter for."""
    first, second = ("embedding_A", "embedding_B") if "embedding_A" in factors else ("A", "B")
    if not {first, second} <= factors.keys():
        return [f"{module}.lora_{name}" for name in factors]
    weight = {name: array for name, array in factors.items() if name != "B.bias"}
    found = base.rows(names, names.resolve(_strip_wrappers(f"{module}.weight")), _shape(weight)[0])
    if found is None:
        return [f"{module}.lora_{name}" for name in factors]
    ranks = _ranks(factors, first, second)
    if ranks[0] != ranks[1] or ranks[0] < 1:
        raise WeightsError(
            f"the adapter's factors of {module} have ranks {ranks[0]} and {ranks[1]}, expected one of 1 or more. Take "
            "its original file."
        )
    scale = adapter.scale(module, ranks[0])
    merge.updates[found[0]].append(LoraUpdate(weight, scale, found[1]))
    if "B.bias" not in factors:
        return []
    bias = base.rows(names, names.resolve(_strip_wrappers(f"{module}.bias")), factors["B.bias"].shape[0])
    if bias is None:
        return [f"{module}.lora_B.bias"]
    merge.updates[bias[0]].append(LoraUpdate({"B.bias": factors["B.bias"]}, scale, bias[1]))
    return []


def _ranks(factors: Factors, first: str, second: str) -> tuple[int, int]:
    """Return the rank that each factor has; 0 for one that is no matrix."""
    a, b = factors[first], factors[second]
    return (a.shape[0] if a.ndim == 2 else 0), (b.shape[1] if b.ndim == 2 else 0)


def _check_shapes(merge: AdapterMerge, tensor_infos: Mapping[str, TensorInfo], where: str) -> None:
    for name, update in ((name, update) for name, updates in merge.updates.items() for update in updates):
        whole = tensor_info(merge.replacements[name]).shape if name in merge.replacements else tensor_infos[name].shape
        shape = whole if update.start is None else (update.shape[0], *whole[1:])
        if update.shape != shape:
            raise WeightsError(
                f"{where} adds {update.shape} to {name}, which has {shape} in its base. Check that "
                "base_model_name_or_path is the model that it was trained on, or merge it with peft (merge_and_unload)."
            )


def _shape(factors: Factors) -> tuple[int, ...]:
    if "B.bias" in factors:
        return tuple(factors["B.bias"].shape)
    if "embedding_A" in factors:
        return (factors["embedding_A"].shape[1], factors["embedding_B"].shape[0])
    return (factors["B"].shape[0], *factors["A"].shape[1:])


def _merge(array: mx.array, factors: Factors, scale: float) -> mx.array:
    """Return a base tensor with its update, computed in float32 and cast back to its dtype."""
    # Half-precision factors are small, and their product would lose digits before it is added.
    weight, wide = array.astype(mx.float32), {name: value.astype(mx.float32) for name, value in factors.items()}
    if "B.bias" in wide:
        return (weight + scale * wide["B.bias"]).astype(array.dtype)
    if "embedding_A" in wide:
        # peft keeps an embedding's factors transposed.
        return (weight + scale * (wide["embedding_B"] @ wide["embedding_A"]).T).astype(array.dtype)
    merged = weight + scale * (wide["B"] @ wide["A"])
    if "magnitude_vector" in wide:
        # DoRA: every output row has the trained length, whatever the sum's.
        lengths = mx.linalg.norm(merged, axis=1, keepdims=True)
        merged = wide["magnitude_vector"].reshape(-1, 1) * merged / lengths
    return merged.astype(array.dtype)


def _strip_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(f"{wrapper}.", ".")
    return name


def _slot(target: TensorTarget) -> ParameterSlot:
    """Return the parameter slot of a target; the checkpoint's module path identifies tensors that are not read."""
    return (target.path or target.module, target.leaf, target.slice_index)
