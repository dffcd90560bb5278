"""Find the float checkpoint that a converted model is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.errors import InputError, RepositoryError
from mlx_hf_bridge.quantization.recipes import QuantizationLike


@dataclass(frozen=True)
class Reference:
    """A float checkpoint.

    Attributes:
        name: The absolute path of a folder, or a Hub id.
        revision: The commit of a Hub repo; None for a folder.
        folder: Where its small files are.
    """

    name: str
    revision: str | None
    folder: Path


def find_reference(model: str, given: str | Path | None, recipe: QuantizationLike) -> Reference:
    """Find the reference of a model.

    Args:
        model: A converted folder, or a checkpoint that is to be converted.
        given: What the caller says is the reference; None for what the model was converted from.
        recipe: The recipe to convert with; None for a converted folder.

    Returns:
        The reference: the folder by its absolute path, or the commit of the repo, that was converted.

    Raises:
        InputError: If the model names no source and no reference is given.
        RepositoryError: If the reference is gone.
    """
    path = Path(model).expanduser() / METADATA_FILE
    if given is not None:
        return _locate(str(given), None)
    if path.is_file():
        return _noted(model, read_metadata(path.parent))
    reference = _locate(model, None)
    if recipe is None:
        raise InputError(
            f"{model} has no {METADATA_FILE} that names its source, and no recipe was given. Give reference_model "
            "(--reference), the float checkpoint, or a recipe to convert with."
        )
    return reference


def _noted(model: str, metadata: Mapping[str, Any]) -> Reference:
    identity = metadata.get("identity") or {}
    # A merged adapter is compared with the adapter, on its base.
    identity = identity.get("adapter", identity)
    # As it was spelled then, it may be another folder now.
    place = identity.get("path")
    if place is None:
        return _locate(str(identity.get("repo", metadata["source"])), identity.get("commit", metadata.get("revision")))
    if not Path(place).is_dir():
        raise RepositoryError(
            f"{model} was converted from {place}, which does not exist any more. Give reference_model (--reference), "
            "the float checkpoint."
        )
    return _locate(str(place), None)


def _locate(name: str, revision: str | None) -> Reference:
    source = locate(name, HubOptions(revision=revision))
    return Reference(source.name if source.revision else str(source.folder), source.revision, source.folder)
