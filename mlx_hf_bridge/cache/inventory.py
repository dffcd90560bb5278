"""Everything that the cache holds: converted models with their sources, sizes and ages, and what nothing uses."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlx_hf_bridge.cache.states import State, state_of
from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE
from mlx_hf_bridge.conversion.integrity import read_metadata
from mlx_hf_bridge.conversion.usage import converted_folder, is_in_use, last_used, lock_folder
from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization.recipes import recipe_from, recipe_name
from mlx_hf_bridge.runtime.atomic_folder import abandoned
from mlx_hf_bridge.runtime.boundary import guard_methods, guarded
from mlx_hf_bridge.runtime.environment import bridge_cache

# The names that `conversion.cache.cache_folder` gives; other folders are somebody else's and are never touched.
_OURS = re.compile(r".+-[0-9a-f]{16}", re.DOTALL)
_CALIBRATION = re.compile(r"[0-9a-f]{16,64}")
_DAY = 86400
# An interrupted calibration can be resumed until then.
_DAYS_OF_A_CALIBRATION = 14


@dataclass(frozen=True)
class CachedModel:
    """One converted model in the cache.

    Attributes:
        id: The name of its folder.
        folder: The folder.
        source: The Hub id or folder that it was converted from; None if its metadata cannot be read.
        adapter: The Hub id or folder of the LoRA adapter that was merged; None for none.
        revision: The commit of a Hub repo; None for a folder.
        recipe: The name of its quantization: "q8", "float", ...; None if its metadata cannot be read.
        size: Bytes of all its files.
        created: When it was converted, in seconds since 1970.
        last_used: When it was last loaded, in seconds since 1970; None if that is not known.
        in_use: Whether a process has it loaded now.
        state: "current", "outdated" (no load finds it any more) or "broken" (the next load converts again).
        reasons: Why it is outdated or broken.
    """

    id: str
    folder: Path
    source: str | None
    adapter: str | None
    revision: str | None
    recipe: str | None
    size: int
    created: float
    last_used: float | None
    in_use: bool
    state: State
    reasons: tuple[str, ...] = ()

    def unused_days(self) -> float:
        """Return for how long the model was not loaded.

        Returns:
            Days since its last use, or since its conversion if it was never used, or uses could not be noted.
        """
        return max(0.0, time.time() - max(self.created, self.last_used or 0)) / _DAY


@dataclass(frozen=True)
class Leftover:
    """Something in the cache that no model is loaded from, and that nothing uses.

    Attributes:
        path: The file or folder.
        kind: "scratch" (of a conversion that was killed), "lock" (of a folder that is gone) or "calibration" (steps of
            one that was interrupted and not resumed for two weeks).
        size: Bytes of all its files.
    """

    path: Path
    kind: Literal["scratch", "lock", "calibration"]
    size: int


@guard_methods
@dataclass(frozen=True)
class CacheInfo:
    """What `scan_cache` found.

    Attributes:
        folder: The folder of the cache, which need not exist.
        models: The converted models, by source and recipe.
        leftovers: What nothing uses.
    """

    folder: Path
    models: tuple[CachedModel, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def size(self) -> int:
        """Bytes of all models and leftovers."""
        return sum(model.size for model in self.models) + sum(item.size for item in self.leftovers)

    def find(self, target: str, recipe: str | None = None) -> list[CachedModel]:
        """Find models by what a user calls them.

        Args:
            target: The id of a folder, its path, a source or adapter (Hub id or folder, in any case of letters, or the
                last part of either), or else a recipe.
            recipe: The recipe that they have; None for any.

        Returns:
            The models; none if nothing has that name.
        """
        ways = (_has_id, _has_source, _has_short_name, lambda model, name: model.recipe == name)
        for is_meant in ways:
            if found := [model for model in self.models if is_meant(model, target)]:
                return [model for model in found if recipe in (None, model.recipe)]
        return []

    def prunable(self, unused_days: float | None = None) -> list[CachedModel | Leftover]:
        """Return what can be removed without losing anything that a load would find.

        Args:
            unused_days: Models that were not loaded for this many days are returned too; None for none of them.

        Returns:
            Outdated and broken models, unused ones if asked for, and leftovers.
        """
        chosen: list[CachedModel | Leftover] = [
            model
            for model in self.models
            if model.state != "current" or (unused_days is not None and model.unused_days() >= unused_days)
        ]
        return [*chosen, *self.leftovers]


@guarded
def scan_cache() -> CacheInfo:
    """Look at everything in the cache (MLX_HF_BRIDGE_CACHE), without changing it.

    Returns:
        The models and leftovers. Weights are read by samples; `verify` reads all of them.

    Raises:
        RepositoryError: If the cache lies in a home folder that is not known.
    """
    folder = converted_folder()
    models = sorted(map(_model, _folders(folder)), key=lambda model: (model.source or "", model.recipe or "", model.id))
    return CacheInfo(bridge_cache(), tuple(models), tuple(_leftovers(folder)))


def _folders(parent: Path) -> Iterator[Path]:
    """Yield the converted folders; a link is not followed, since what it leads to is not of the cache."""
    for path in _listed(parent):
        if _OURS.fullmatch(path.name) and not path.name.startswith(".") and path.is_dir() and not path.is_symlink():
            yield path


def _listed(parent: Path) -> list[Path]:
    try:
        return sorted(parent.iterdir())
    except OSError:  # absent, or no folder
        return []


def _model(folder: Path) -> CachedModel:
    metadata = read_metadata(folder) or {}
    state, reasons = state_of(folder, metadata)
    place, source, adapter, revision = (
        found if isinstance(found, str) else None
        for found in (_place(metadata), *(metadata.get(key) for key in ("source", "adapter", "revision")))
    )
    return CachedModel(
        id=folder.name,
        folder=folder,
        # A relative path may mean another folder by now.
        source=place or source,
        adapter=adapter,
        revision=revision,
        recipe=_recipe(metadata),
        size=size_on_disk(folder),
        created=_modified(folder / METADATA_FILE) or _modified(folder) or 0.0,
        last_used=last_used(folder),
        in_use=is_in_use(folder),
        state=state,
        reasons=reasons,
    )


def _place(metadata: dict[str, Any]) -> Any:
    """Return the path of the local folder that a model was converted from; None for a Hub repo."""
    identity = metadata.get("identity")
    identity = identity.get("base", identity) if isinstance(identity, dict) else {}
    return identity.get("path") if isinstance(identity, dict) else None


def _recipe(metadata: dict[str, Any]) -> str | None:
    try:
        return recipe_name(recipe_from(metadata["recipe"]))
    # Unknown to this version, or not what it says it is.
    except (KeyError, TypeError, ValueError, QuantizationError):
        return None


def _leftovers(folder: Path) -> Iterator[Leftover]:
    for scratch in abandoned(folder):
        yield Leftover(scratch, "scratch", size_on_disk(scratch))
    locks = [path for path in _listed(folder) if path.suffix == ".lock" and _OURS.fullmatch(path.stem)]
    locks += [path for path in _listed(lock_folder()) if _OURS.fullmatch(path.name)]
    for lock in locks:
        converted = folder / (lock.stem if lock.suffix == ".lock" else lock.name)
        if not converted.exists() and not is_in_use(converted):
            yield Leftover(lock, "lock", 0)
    for steps in _listed(bridge_cache() / "calibration"):
        if not _CALIBRATION.fullmatch(steps.name):
            continue
        newest = max((_modified(path) or 0.0 for path in (steps, *_listed(steps))), default=0.0)
        if time.time() - newest > _DAYS_OF_A_CALIBRATION * _DAY:
            yield Leftover(steps, "calibration", size_on_disk(steps))


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; links count as links.

    Args:
        path: The file or folder; what vanishes meanwhile does not count.

    Returns:
        The sum of the sizes.
    """
    total = 0
    for place in (path, *path.rglob("*")) if path.is_dir() and not path.is_symlink() else (path,):
        try:
            total += 0 if place.is_dir() else os.lstat(place).st_size
        except OSError:
            continue
    return total


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _has_id(model: CachedModel, name: str) -> bool:
    return model.id == name or str(model.folder) == str(Path(name).expanduser().absolute())


def _has_source(model: CachedModel, name: str) -> bool:
    place = str(Path(name).expanduser().resolve())
    return any(source.lower() == name.lower() or source == place for source in _sources(model))


def _has_short_name(model: CachedModel, name: str) -> bool:
    return any(Path(source).name.lower() == name.lower() for source in _sources(model))


def _sources(model: CachedModel) -> list[str]:
    return [source for source in (model.source, model.adapter) if source]
