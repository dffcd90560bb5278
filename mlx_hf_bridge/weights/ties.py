"""Tied tensors settled by what the files hold, as in transformers 5, and not by config.json alone.

transformers ties two tensors (`tie_word_embeddings`) only if they are equal or one of them is missing; it keeps both if
they differ (modeling_utils.py, PreTrainedModel.tie_weights). Afterwards each tensor has one name, and the config says
whether masked-LM heads have a decoder of their own.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.config import EncoderConfig
from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.safetensors_file import TensorInfo, WeightFile
from mlx_hf_bridge.errors import WeightsError
from mlx_hf_bridge.weights.name_mapping import spellings

# Module name in today's spelling -> leaf -> tensor name in the files.
_Modules = Mapping[str, Mapping[str, str]]
# Tensor name in the files -> the name to read it under; None drops it.
_Renames = dict[str, str | None]


class RenamedFile:
    """A weight file of which some tensors have other names, or are left out."""

    def __init__(self, file: WeightFile, renames: Mapping[str, str | None]) -> None:
        self.path = file.path
        self._file, self._renames = file, renames
        self.tensor_infos: dict[str, TensorInfo] = {
            new: info for name, info in file.tensor_infos.items() if (new := renames.get(name, name)) is not None
        }

    def arrays(self) -> Iterator[tuple[str, mx.array]]:
        """Yield each tensor by its new name, lazily."""
        for name, array in self._file.arrays():
            if (new := self._renames.get(name, name)) is not None:
                yield new, array


def settle_ties(
    files: Sequence[WeightFile], family: Family, raw: Mapping[str, Any], compare: bool = True
) -> tuple[list[WeightFile], dict[str, Any]]:
    """Return the weight files and config.json with tied tensors settled.

    Args:
        files: The weight files of a checkpoint.
        family: The implementation of its model_type.
        raw: The content of config.json.
        compare: False for files without contents, whose tied tensors are then taken as equal.

    Returns:
        The files, in which a tied tensor has one name, and the config, with `tie_word_embeddings` false if the files
        have a decoder that differs from the token embeddings.

    Raises:
        WeightsError: If copies of one table, which the model computes with, differ.
    """
    config = family.config.from_json(raw)
    modules, renames = _by_module(files, family), _Renames()
    for original in dict.fromkeys(family.copied_modules.values()):
        _settle_copies(renames, modules, files, family, original, compare)
    untied = False
    if config.tie_word_embeddings:
        word = next(hf for hf, path in family.names.items() if path == "embeddings.word")
        for decoder, bias in _decoders(family, config).items():
            if "weight" in modules[decoder] and "weight" not in modules[word]:
                _rename(renames, modules, decoder, word, but=("bias",))
            elif "weight" in modules[decoder] and compare and not _are_equal(files, modules[word], modules[decoder]):
                untied = True
            # The decoder's bias is what transformers adds; the head's own is its tied name.
            if untied and "bias" not in modules[decoder]:
                _rename(renames, modules, bias, decoder, only=("bias",))
            elif not untied:
                _rename(renames, modules, decoder, bias, only=("bias",))
    settled: list[WeightFile] = [RenamedFile(file, renames) if renames else file for file in files]
    return settled, {**raw, "tie_word_embeddings": False} if untied else dict(raw)


def _settle_copies(
    renames: _Renames,
    modules: _Modules,
    files: Sequence[WeightFile],
    family: Family,
    original: str,
    compare: bool,
) -> None:
    """Give the copies of a module its name; WeightsError if transformers would compute with several different ones."""
    # A file without a decoder has none of its copies.
    stacks = {module.partition(".")[0] for module in modules}
    copies = [
        copy
        for copy, module in family.copied_modules.items()
        if module == original and copy.partition(".")[0] in stacks
    ]
    # The copies are what transformers computes with, whether they equal the original or not.
    read = [copy for copy in copies if "weight" in modules[copy]]
    # A copy that is missing is tied to the original.
    read += [original] if read and len(read) < len(copies) and "weight" in modules[original] else []
    for other in read[1:] if compare else ():
        if not _are_equal(files, modules[read[0]], modules[other]):
            names = " and ".join(modules[module]["weight"] for module in (read[0], other))
            raise WeightsError(
                f"{names} differ, and {family.model_type!r} is computed here with one token table. Use transformers on "
                "torch for this checkpoint."
            )
    for copy in read[:1]:
        _rename(renames, modules, copy, original)
    for other in read[1:]:
        renames.update({name: None for name in modules[other].values() if other != original})


def _decoders(family: Family, config: EncoderConfig) -> dict[str, str]:
    """Return the module of each decoder, and the one that holds its bias while it is tied."""
    found = {decoder: decoder for decoder in family.ignored_decoders}
    for head in family.heads.values():
        variant = head if head.variant_for is None else head.variant_for(config)
        for decoder in variant.untied:
            found[decoder] = next(iter(variant.tied), decoder)
    return found


def _by_module(files: Sequence[WeightFile], family: Family) -> _Modules:
    """Return the tensor names of the files by module and leaf, under every spelling of the module."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for file in files:
        for name in file.tensor_infos:
            module, _, leaf = name.rpartition(".")
            for spelled in spellings(family, module):
                found[spelled].setdefault(leaf, name)
    return found


def _rename(
    renames: _Renames,
    modules: _Modules,
    module: str,
    other: str,
    only: Sequence[str] = (),
    but: Sequence[str] = (),
) -> None:
    """Give the tensors of `module` the names of `other`, whose own are dropped."""
    if module == other:
        return
    for leaf, name in modules[module].items():
        if leaf not in but and (not only or leaf in only):
            if leaf in modules[other]:
                renames[modules[other][leaf]] = None
            renames[name] = f"{other}.{leaf}"


def _are_equal(files: Sequence[WeightFile], one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether two modules have the same weights, packed or not; a bias does not count."""
    leaves = set(one) - {"bias"}
    if leaves != set(other) - {"bias"}:
        return False
    wanted = {name for leaf in leaves for name in (one[leaf], other[leaf])}
    found = dict(_read(files, wanted))
    return all(_same(found[one[leaf]], found[other[leaf]]) for leaf in leaves)


def _same(one: mx.array, other: mx.array) -> bool:
    return one.shape == other.shape and bool(mx.array_equal(one, other))


def _read(files: Sequence[WeightFile], wanted: set[str]) -> Iterator[tuple[str, mx.array]]:
    """Yield the arrays of the wanted names, reading no further than the last of them."""
    for file in files:
        remaining = wanted & set(file.tensor_infos)
        for name, array in file.arrays() if remaining else ():
            if name in remaining:
                yield name, array
                remaining.discard(name)
            if not remaining:
                break
