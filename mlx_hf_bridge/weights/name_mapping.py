"""Checkpoint tensor names mapped onto model parameters: each is read, kept unused, ignored by name, or an error."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import BASE_TASK, Family, head_of
from mlx_hf_bridge.errors import UnsupportedModelError, WeightsError
from mlx_hf_bridge.models import types_with_head

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")
_LETTERS = ("{i}", "{j}", "{k}")
# gamma and beta are TensorFlow's names; transformers' "metal" quantizer, which packs as MLX does, writes qbiases.
_LEGACY_LEAVES = {"gamma": "weight", "beta": "bias", "qbiases": "biases"}
# Prefixes that other tools add to the names of the base model: torch's DataParallel, mlx-embeddings.
_WRAPPERS = ("module.", "model.")
# An error message lists this many names.
_LISTED = 8
# Modules that torch.nn.utils.parametrize writes: "<module>.parametrizations.weight", and ".0" for what is added to it.
_PARAMETRIZED = re.compile(r"(.+)\.parametrizations\.weight(?:\.(\d+))?")
# Leaves that are never cast. Rotary angles are frequencies times positions, and in bfloat16 the angle at position 1,000
# would be off by radians; a LoRA is small, and is added to weights of any precision.
KEEP_FILE_DTYPE = ("inv_freq", "lora_A", "lora_B")

# One slice of one model parameter: (module path, leaf name, slice index; 0 unless the parameter is fused).
ParameterSlot = tuple[str, str, int]


@dataclass(frozen=True)
class TensorTarget:
    """The model parameter that a checkpoint tensor belongs to.

    Attributes:
        module: The checkpoint's module path in today's transformers spelling, without the family's prefix.
        leaf: The parameter's name inside the module: "weight", "bias", "scales" or "biases".
        path: The model's module path, or None for a tensor of another head or of a module that the model does not
            compute with; such a tensor is kept in a converted folder and not read.
        slice_index: Which rows of a fused parameter the tensor holds (queries 0, keys 1, values 2); else 0.
        is_base: Whether the tensor belongs to the encoder and not to a head.
        is_fused: Whether the tensor holds all slices of a fused parameter at once.
        is_bare: Whether the file calls a weight by its module's name alone, without ".weight" (experts' matrices).
    """

    module: str
    leaf: str
    path: str | None = None
    slice_index: int = 0
    is_base: bool = False
    is_fused: bool = False
    is_bare: bool = False

    @property
    def name(self) -> str:
        """The tensor's name in today's transformers spelling, without the family's prefix."""
        return self.module if self.is_bare else f"{self.module}.{self.leaf}"


@dataclass(frozen=True)
class ModuleSources:
    """A module of the model, and the checkpoint modules whose rows it concatenates, in order."""

    path: str
    modules: tuple[str, ...]


class NameMapping:
    """The name tables of one family for one task, readable in both directions.

    Args:
        family: The model type's tables of names.
        config: The checkpoint's config; heads may depend on it (tied weights).
        task: A task that the family has a head for, or "feature-extraction" for the encoder alone.

    Raises:
        UnsupportedModelError: If the family has no head for the task.
    """

    def __init__(self, family: Family, config: EncoderConfig, task: str) -> None:
        if task != BASE_TASK and task not in family.heads:
            raise UnsupportedModelError(
                f"model_type {family.model_type!r} has no head for {task!r} here; "
                f"it has {', '.join(sorted(family.heads))}, and the types that have the head are "
                f"{', '.join(types_with_head(task))}. Use one of these, or transformers on torch."
            )
        self._family = family
        own = head_of(family, config, task)
        own_encoder = {} if own is None else own.encoder_names
        names = {**family.names, **family.own_names(config), **own_encoder}
        self._base = {hf: path if path.startswith("pooler.") else f"encoder.{path}" for hf, path in names.items()}
        head = {} if own is None else own.names_for(config)
        self._head = {hf: f"head.{path}".rstrip(".") for hf, path in head.items()}
        self._other_heads = {
            name
            for other in family.heads.values()
            # A head with variants has its tables of tied names there.
            for name in (*other.names, *other.tied, *other.untied, *other.names_for(config))
        } - set(self._head)
        self._ignored_suffixes = {name for head in family.heads.values() for name in head.ignored_suffixes(config)}
        self._reads_more = bool(own_encoder)
        more = {name for other in family.heads.values() for name in other.encoder_names}
        self._unused_modules = frozenset({*family.unused_modules(config), *more} - set(own_encoder))
        self._more = frozenset(more)
        self._has_loras = bool(getattr(config, "lora_adaptations", None))

    def resolve(self, name: str) -> TensorTarget | None:
        """Return the parameter that a checkpoint tensor belongs to; None for a name that no table has."""
        module, _, leaf = name.rpartition(".")
        if match := _PARAMETRIZED.fullmatch(module):
            return self._parametrized(match[1], match[2], leaf)
        leaf = _LEGACY_LEAVES.get(leaf, leaf)
        # The name as it is first, then without the prefixes that tools and base models add.
        for spelled in spellings(self._family, module):
            if found := self._lookup(spelled, leaf):
                return found
        for spelled in spellings(self._family, name):
            # Without a dot there is no module that the first loop could have found.
            if (found := self._lookup(spelled, "weight")) and (found.path or "." not in spelled):
                return replace(found, is_bare=True)
        return None

    def _parametrized(self, module: str, number: str | None, leaf: str) -> TensorTarget | None:
        """Return the target of a weight with torch's parametrizations, or of a LoRA among these, which is kept."""
        base = self.resolve(f"{module}.weight")
        if base is None or number is None:
            return base if leaf == "original" else None
        if not self._has_loras:  # a LoRA that config.json says nothing of is not dropped in silence
            return None
        return TensorTarget(f"{base.module}.parametrizations.weight.{number}", leaf, is_base=True)

    def has_head_that_reads_more(self, tensors: Iterable[str]) -> bool:
        """Whether a checkpoint has a head that reads modules in addition to the family's encoder (`Head.encoder`)."""
        heads = {name for head in self._family.heads.values() if head.encoder_names for name in head.names}
        found = (spelled for name in tensors for spelled in spellings(self._family, name.rpartition(".")[0]))
        return self._reads_more or (bool(heads) and any(spelled in heads for spelled in found))

    def is_ignored(self, name: str, reads_more: bool = False) -> bool:
        """Whether transformers computes this tensor itself, or ties it to another, whatever the file holds.

        `reads_more` says that modules in addition to the family's encoder are kept (`has_head_that_reads_more`).
        """
        spelled = list(spellings(self._family, name))
        if any(one.startswith(f"{word}.") for word in self._family.ignored_prefixes for one in spelled):
            modules = (one.rpartition(".")[0] for one in spelled)
            return not (reads_more and any(pattern in self._more for one in modules for pattern, _ in _patterns(one)))
        ignored = (*self._family.ignored_suffixes, *self._ignored_suffixes)
        return any(name == tensor or name.endswith(f".{tensor}") for tensor in ignored)

    def sources_of(self, paths: Iterable[str]) -> list[ModuleSources]:
        """Return, for each module path of the model, the checkpoint modules that fill it."""
        sources: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for hf, target in {**self._base, **self._head}.items():
            path, _, slice_index = target.partition("#")  # "attention.qkv#1" is the second slice of a fused module
            sources[path].append((int(slice_index or 0), hf))
        found = []
        for path in paths:
            pattern, numbers = _abstract(path)
            modules = [_concrete(hf, numbers) for _, hf in sorted(sources[pattern])]
            found.append(ModuleSources(path, tuple(modules)))
        return found

    def _lookup(self, module: str, leaf: str) -> TensorTarget | None:
        if alternate := self._alternate(module, leaf):
            return alternate
        for pattern, numbers in _patterns(module):
            for table, is_base in ((self._head, False), (self._base, True)):
                if is_base and pattern in self._unused_modules:
                    return TensorTarget(module, leaf, is_base=True)
                if pattern in table:
                    path, _, slice_index = table[pattern].partition("#")
                    return TensorTarget(module, leaf, _concrete(path, numbers), int(slice_index or 0), is_base)
        pattern, _ = _abstract(module)
        first_word = module.partition(".")[0]
        if pattern in self._other_heads or first_word in self._family.other_heads:
            return TensorTarget(module, leaf)
        return None

    def _alternate(self, module: str, leaf: str) -> TensorTarget | None:
        """Return the target of a module that this file calls by an alternate name, or that holds fused weights."""
        for pattern, numbers in _patterns(module):
            if pattern not in self._family.alternate_names:
                continue
            known = _concrete(self._family.alternate_names[pattern], numbers)
            if found := self._lookup(known, leaf):
                return replace(found, module=module)
            return TensorTarget(module, leaf, f"encoder.{known}", is_base=True, is_fused=True)
        return None


def spellings(family: Family, module: str) -> Iterator[str]:
    """Yield a module's name as a file has it, then without the prefixes that tools and base models add.

    Args:
        family: The implementation of the model_type, for its prefixes.
        module: The module's name in a file, or a tensor's.

    Yields:
        Names, the file's own first.
    """
    stripped = module
    for wrapper in _WRAPPERS:
        stripped = stripped.removeprefix(wrapper)
    bare = [stripped.removeprefix(f"{prefix}.") for prefix in (family.prefix, *family.alternate_prefixes)]
    yield from dict.fromkeys((module, stripped, *bare))


def _abstract(path: str) -> tuple[str, list[str]]:
    """Replace numbers by letters: "layers.3.x" -> ("layers.{i}.x", ["3"])."""
    numbers = _NUMBER.findall(path)
    letters = iter(_LETTERS)
    return _NUMBER.sub(lambda _: next(letters, "?"), path), numbers


def _patterns(path: str) -> Iterator[tuple[str, list[str]]]:
    """Yield a path with all of its numbers replaced, then fewer from the right, at last none.

    "block.3.layer.0" -> ("block.{i}.layer.{j}", ["3", "0"]), ("block.{i}.layer.0", ["3"]), ("block.3.layer.0", []).
    """
    numbers = list(_NUMBER.finditer(path))
    # Some tables name a numbered module itself, such as "classifier.0", which is no layer number.
    for count in range(len(numbers), -1, -1):
        end = numbers[count - 1].end() if count else 0
        pattern, found = _abstract(path[:end])
        yield pattern + path[end:], found


def _concrete(pattern: str, numbers: list[str]) -> str:
    """Put numbers back in place of the letters."""
    for letter, number in zip(_LETTERS, numbers, strict=False):
        pattern = pattern.replace(letter, number)
    return pattern


def resolve_names(names: NameMapping, tensors: Iterable[str], where: str) -> dict[str, TensorTarget]:
    """Return the target of every checkpoint tensor that is not ignored.

    Args:
        names: The family's name tables.
        tensors: Names of the checkpoint's tensors.
        where: The checkpoint's folder, for messages.

    Returns:
        Tensor name -> target.

    Raises:
        WeightsError: If a name is in no table, or two names mean one tensor.
    """
    tensors = sorted(tensors)
    reads_more = names.has_head_that_reads_more(tensors)
    found = {name: names.resolve(name) for name in tensors if not names.is_ignored(name, reads_more)}
    targets = {name: target for name, target in found.items() if target is not None}
    check_all_resolved([name for name, target in found.items() if target is None], where)
    taken: dict[ParameterSlot, str] = {}
    for name, target in targets.items():
        slot = (target.path or "", target.leaf, target.slice_index)
        # Two spellings of one tensor: which of them wins must not depend on the order in the file.
        if target.path and (other := taken.setdefault(slot, name)) != name:
            raise WeightsError(
                f"{where} has {other} and {name}, two names of one tensor. Take the original checkpoint, or delete one."
            )
    return targets


def check_all_resolved(unknown: list[str], where: str) -> None:
    """Raise WeightsError if there are tensors that the model has no parameter for."""
    if unknown:
        raise WeightsError(
            f"{where} has {len(unknown)} tensors that the model has no parameter for: {summarize(unknown)}. "
            "Its architecture is not the one that config.json names; check that the two belong together."
        )


def summarize(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
