"""Checkpoint names become places in the model: every tensor is placed, carried along, ignored by name, or an error."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family
from mlx_hf_bridge.errors import UnsupportedModelError, WeightsError
from mlx_hf_bridge.models import types_with_head

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_LETTERS = ("{i}", "{j}", "{k}")
# TensorFlow's spelling, and that of transformers' "metal" quantiser, whose packing is MLX's.
_LEGACY_LEAVES = {"gamma": "weight", "beta": "bias", "qbiases": "biases"}
# Words that other tools put before base names: torch's DataParallel, mlx-embeddings.
_WRAPPERS = ("module.", "model.")
_SHOWN = 8
# Kept in the dtype of the file: angles are these times places, and bfloat16 would be radians off at place 1,000.
KEEP_FILE_DTYPE = ("inv_freq",)

# One slice of one model parameter: (module path, leaf name, slice index; 0 unless the parameter is fused).
ParameterSlot = tuple[str, str, int]


@dataclass(frozen=True)
class TensorTarget:
    """Where a checkpoint tensor goes: `ours` and `leaf` name a parameter, `part` its share of a joined one.

    `module` is the checkpoint's own module path without prefix or legacy spelling; `ours` is None for a tensor of
    another head or an unread module, which is carried along. `is_fused`: the tensor holds all parts of a joined one.
    """

    module: str
    leaf: str
    path: str | None = None
    slice_index: int = 0
    is_base: bool = False
    is_fused: bool = False

    @property
    def name(self) -> str:
        """The tensor's name as HF spells it today, without the family's prefix."""
        return f"{self.module}.{self.leaf}"


@dataclass(frozen=True)
class ModuleSources:
    """One of our modules, and the checkpoint modules whose rows it joins, in order."""

    path: str
    modules: tuple[str, ...]


class NameMapping:
    """A family's name tables for one task, read in both directions."""

    def __init__(self, family: Family, config: EncoderConfig, task: str) -> None:
        if task != BASE_TASK and task not in family.heads:
            raise UnsupportedModelError(
                f"model_type {family.model_type!r} has no head for {task!r} here; "
                f"it has {', '.join(sorted(family.heads))}, and the types that have the head are "
                f"{', '.join(types_with_head(task))}. Use one of these, or transformers on torch."
            )
        self._family = family
        self._base = {
            hf: ours if ours.startswith("pooler.") else f"encoder.{ours}" for hf, ours in family.names.items()
        }
        head = family.heads[task].names_for(config) if task != BASE_TASK else {}
        self._head = {hf: f"head.{ours}".rstrip(".") for hf, ours in head.items()}
        self._other_heads = {
            name for other in family.heads.values() for name in (*other.names, *other.tied, *other.untied)
        } - set(self._head)
        self._passed_over = {name for head in family.heads.values() for name in head.ignored_suffixes(config)}
        self._unread = frozenset(family.unused_modules(config))

    def resolve(self, name: str) -> TensorTarget | None:
        """A checkpoint tensor's name -> its place; None for one that no table knows."""
        module, _, leaf = name.rpartition(".")
        leaf = _LEGACY_LEAVES.get(leaf, leaf)
        for spelled in self._spellings(module):
            if found := self._lookup(spelled, leaf):
                return found
        return None

    def is_ignored(self, name: str) -> bool:
        """Whether transformers makes this tensor anew, or from another, whatever the file says."""
        if any(
            spelled.startswith(f"{word}.")
            for word in self._family.ignored_prefixes
            for spelled in self._spellings(name)
        ):
            return True
        ignored = (*self._family.ignored_suffixes, *self._passed_over)
        return any(name == tensor or name.endswith(f".{tensor}") for tensor in ignored)

    def sources_of(self, paths: Iterable[str]) -> list[ModuleSources]:
        """Our module paths -> the checkpoint modules that fill them."""
        sources: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for hf, ours in {**self._base, **self._head}.items():
            path, _, part = ours.partition("#")
            sources[path].append((int(part or 0), hf))
        found = []
        for path in paths:
            pattern, numbers = _abstract(path)
            modules = [_concrete(hf, numbers) for _, hf in sorted(sources[pattern])]
            found.append(ModuleSources(path, tuple(modules)))
        return found

    def _spellings(self, module: str) -> Iterable[str]:
        stripped = module
        for wrapper in _WRAPPERS:
            stripped = stripped.removeprefix(wrapper)
        bare = [
            stripped.removeprefix(f"{prefix}.") for prefix in (self._family.prefix, *self._family.alternate_prefixes)
        ]
        yield from dict.fromkeys((module, stripped, *bare))

    def _lookup(self, module: str, leaf: str) -> TensorTarget | None:
        if alternate := self._alternate(module, leaf):
            return alternate
        for pattern, numbers in _patterns(module):
            for table, is_base in ((self._head, False), (self._base, True)):
                if is_base and pattern in self._unread:
                    return TensorTarget(module, leaf, is_base=True)
                if pattern in table:
                    ours, _, part = table[pattern].partition("#")
                    return TensorTarget(module, leaf, _concrete(ours, numbers), int(part or 0), is_base)
        pattern, _ = _abstract(module)
        first_word = module.partition(".")[0]
        if pattern in self._other_heads or first_word in self._family.other_heads:
            return TensorTarget(module, leaf)
        return None

    def _alternate(self, module: str, leaf: str) -> TensorTarget | None:
        """The place of a module that this file names otherwise than the tables do."""
        for pattern, numbers in _patterns(module):
            if pattern not in self._family.alternate_names:
                continue
            known = _concrete(self._family.alternate_names[pattern], numbers)
            if found := self._lookup(known, leaf):
                return replace(found, module=module)
            return TensorTarget(module, leaf, f"encoder.{known}", is_base=True, is_fused=True)
        return None


def _abstract(path: str) -> tuple[str, list[str]]:
    """ "layers.3.x" -> ("layers.{i}.x", ["3"])."""
    numbers = _NUMBER.findall(path)
    letters = iter(_LETTERS)
    return _NUMBER.sub(lambda _: next(letters, "?"), path), numbers


def _patterns(path: str) -> Iterator[tuple[str, list[str]]]:
    """ "block.3.layer.0" -> ("block.{i}.layer.{j}", ["3", "0"]), ("block.{i}.layer.0", ["3"]), (itself, [])."""
    numbers = list(_NUMBER.finditer(path))
    for count in range(len(numbers), -1, -1):
        end = numbers[count - 1].end() if count else 0
        pattern, found = _abstract(path[:end])
        yield pattern + path[end:], found


def _concrete(pattern: str, numbers: list[str]) -> str:
    for letter, number in zip(_LETTERS, numbers, strict=False):
        pattern = pattern.replace(letter, number)
    return pattern


def resolve_names(names: NameMapping, tensors: Iterable[str], where: str) -> dict[str, TensorTarget]:
    """Checkpoint names -> places; WeightsError lists names that no table knows, or two names of one place."""
    found = {name: names.resolve(name) for name in sorted(tensors) if not names.is_ignored(name)}
    targets = {name: place for name, place in found.items() if place is not None}
    check_all_resolved([name for name, place in found.items() if place is None], where)
    taken: dict[tuple[str, str, int], str] = {}
    for name, place in targets.items():
        if place.path and (other := taken.setdefault((place.path, place.leaf, place.slice_index), name)) != name:
            raise WeightsError(
                f"{where} has {other} and {name}, two names of one tensor. Take the original checkpoint, or delete one."
            )
    return targets


def check_all_resolved(names: list[str], where: str) -> None:
    """WeightsError for tensors without a place in the model, if there are any."""
    if names:
        raise WeightsError(
            f"{where} has {len(names)} tensors that the model has no place for: {summarize(names)}. "
            "Its architecture is not the one that config.json names; check that the two belong together."
        )


def summarize(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
