"""Checkpoint names become places in the model: every tensor is placed, carried along, ignored by name, or an error."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_hf_bridge.errors import UnsupportedModelError, WeightsError
from mlx_hf_bridge.family import BASE_TASK, Family
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.loading.tensors import TensorInfo

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_LETTERS = ("{i}", "{j}", "{k}")
_LEGACY_LEAVES = {"gamma": "weight", "beta": "bias"}
# Words that other tools put before base names: torch's DataParallel, mlx-embeddings.
_WRAPPERS = ("module.", "model.")
_SHOWN = 8


@dataclass(frozen=True)
class Place:
    """Where a checkpoint tensor goes: `ours` and `leaf` name a parameter, `part` its share of a joined one.

    `module` is the checkpoint's own module path without prefix or legacy spelling; `ours` is None for a tensor of
    another head, which is carried along.
    """

    module: str
    leaf: str
    ours: str | None = None
    part: int = 0
    is_base: bool = False

    @property
    def name(self) -> str:
        """The tensor's name as HF spells it today, without the family's prefix."""
        return f"{self.module}.{self.leaf}"


@dataclass(frozen=True)
class Target:
    """One of our modules, and the checkpoint modules whose rows it joins, in order."""

    path: str
    modules: tuple[str, ...]


class Names:
    """A family's name tables for one task, read in both directions."""

    def __init__(self, family: Family, task: str) -> None:
        if task != BASE_TASK and task not in family.heads:
            raise UnsupportedModelError(
                f"model_type {family.model_type!r} has no head for {task!r} here; "
                f"it has {', '.join(sorted(family.heads))}. Use one of these, or transformers on torch."
            )
        self._family = family
        self._base = {hf: ours if ours.startswith("pooler.") else f"encoder.{ours}" for hf, ours in family.names.items()}
        head = family.heads[task].names if task != BASE_TASK else {}
        self._head = {hf: f"head.{ours}" for hf, ours in head.items()}
        self._other_heads = {name for other in family.heads.values() for name in other.names} - set(self._head)

    def place(self, name: str) -> Place | None:
        """A checkpoint tensor's name -> its place; None for one that no table knows."""
        module, _, leaf = name.rpartition(".")
        leaf = _LEGACY_LEAVES.get(leaf, leaf)
        for spelled in self._spellings(module):
            if found := self._lookup(spelled, leaf):
                return found
        return None

    def is_ignored(self, name: str) -> bool:
        """Whether transformers makes this tensor anew whatever the file says."""
        return any(name == ignored or name.endswith(f".{ignored}") for ignored in self._family.ignored)

    def targets(self, paths: Iterable[str]) -> list[Target]:
        """Our module paths -> the checkpoint modules that fill them."""
        sources: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for hf, ours in {**self._base, **self._head}.items():
            path, _, part = ours.partition("#")
            sources[path].append((int(part or 0), hf))
        found = []
        for path in paths:
            pattern, numbers = _abstract(path)
            modules = [_concrete(hf, numbers) for _, hf in sorted(sources[pattern])]
            found.append(Target(path, tuple(modules)))
        return found

    def _spellings(self, module: str) -> Iterable[str]:
        stripped = module
        for wrapper in _WRAPPERS:
            stripped = stripped.removeprefix(wrapper)
        yield from dict.fromkeys((module, stripped, stripped.removeprefix(f"{self._family.prefix}.")))

    def _lookup(self, module: str, leaf: str) -> Place | None:
        pattern, numbers = _abstract(module)
        for table, is_base in ((self._head, False), (self._base, True)):
            if pattern in table:
                ours, _, part = table[pattern].partition("#")
                return Place(module, leaf, _concrete(ours, numbers), int(part or 0), is_base)
        first_word = module.partition(".")[0]
        if pattern in self._other_heads or first_word in self._family.foreign:
            return Place(module, leaf)
        return None


def _abstract(path: str) -> tuple[str, list[str]]:
    """ "layers.3.x" -> ("layers.{i}.x", ["3"])."""
    numbers = _NUMBER.findall(path)
    letters = iter(_LETTERS)
    return _NUMBER.sub(lambda _: next(letters, "?"), path), numbers


def _concrete(pattern: str, numbers: list[str]) -> str:
    for letter, number in zip(_LETTERS, numbers, strict=False):
        pattern = pattern.replace(letter, number)
    return pattern


def place_all(names: Names, tensors: Iterable[str], where: str) -> dict[str, Place]:
    """Checkpoint names -> places; WeightsError lists the names that no table knows."""
    placed, unexpected = {}, []
    for name in sorted(tensors):
        if names.is_ignored(name):
            continue
        place = names.place(name)
        if place is None:
            unexpected.append(name)
        else:
            placed[name] = place
    if unexpected:
        raise WeightsError(
            f"{where} has {len(unexpected)} tensors that the model has no place for: {_some(unexpected)}. "
            "Its architecture is not the one that config.json names; check that the two belong together."
        )
    return placed


def check_shapes(names: Names, placed: Mapping[str, Place], infos: Mapping[str, TensorInfo], model: Model, where: str) -> None:
    """Every parameter of the model is there in its shape; WeightsError lists those missing or of another shape."""
    given = {(place.ours, place.leaf, place.part): name for name, place in placed.items() if place.ours}
    missing, mismatched = [], []
    for parameter, array in tree_flatten(model.parameters()):
        path, _, leaf = parameter.rpartition(".")
        target = names.targets([path])[0]
        expected = (array.shape[0] // max(len(target.modules), 1), *array.shape[1:])
        for part, module in enumerate(target.modules):
            name = given.get((path, leaf, part))
            if name is None:
                missing.append(f"{module}.{leaf}")
            elif infos[name].shape != expected:
                mismatched.append(f"{name} has {infos[name].shape}, expected {expected}")
    if missing:
        heads = sorted({name.partition(".")[0] for name in missing})
        raise WeightsError(
            f"{where} lacks {len(missing)} tensors that the model needs: {_some(missing)}. Give a checkpoint that has "
            f"them (a head that was never trained, under {', '.join(heads)}, would answer at random)."
        )
    if mismatched:
        raise WeightsError(
            f"{where} has {len(mismatched)} tensors of another shape than config.json says: {_some(mismatched)}. "
            "Check that the two belong together."
        )


def fill(model: Model, placed: Mapping[str, Place], arrays: Mapping[str, mx.array]) -> None:
    """Put the arrays into the model, parts of joined modules one below the other."""
    parts: dict[str, dict[int, mx.array]] = defaultdict(dict)
    for name, place in placed.items():
        if place.ours:
            parts[f"{place.ours}.{place.leaf}"][place.part] = arrays[name]
    wanted = {parameter for parameter, _ in tree_flatten(model.parameters())}
    joined = [(name, _join(found)) for name, found in parts.items() if name in wanted]
    model.load_weights(joined, strict=True)


def _join(parts: Mapping[int, mx.array]) -> mx.array:
    ordered = [parts[part] for part in sorted(parts)]
    return ordered[0] if len(ordered) == 1 else mx.concatenate(ordered, axis=0)


def _some(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
