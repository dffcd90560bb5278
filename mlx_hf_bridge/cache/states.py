"""Whether a converted model in the cache is current, outdated or broken, and why."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlx_hf_bridge.checkpoints.fingerprint import folder_state
from mlx_hf_bridge.conversion.integrity import Damage, find_damage, find_strays
from mlx_hf_bridge.conversion.write import FORMAT
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.version import installed_version

if TYPE_CHECKING:
    from mlx_hf_bridge.cache.inventory import CachedModel

State = Literal["current", "outdated", "broken"]
# Their versions are part of a folder's key (conversion/cache.py).
_LIBRARIES = ("transformers", "tokenizers")


def state_of(folder: Path, metadata: Mapping[str, Any]) -> tuple[State, tuple[str, ...]]:
    """Return the state of a converted folder of the cache, without reading all of its weights.

    Args:
        folder: The folder.
        metadata: Its metadata; empty if it has none that can be read.

    Returns:
        "broken" if files are not as they were written, else "outdated" if no load finds the folder any more, else
        "current"; and the reasons.
    """
    if broken := tuple(map(str, (*find_damage(folder), *find_strays(folder)))):
        return "broken", broken
    outdated = tuple(_outdated(metadata))
    return ("outdated" if outdated else "current"), outdated


@guarded
def verify(model: "CachedModel") -> list[Damage]:
    """Compare every byte of a converted model with the checksums that were noted when it was written.

    Args:
        model: The model, as `scan_cache` returned it.

    Returns:
        What is wrong with each file that is not as it was; empty if the model is intact.
    """
    return [*find_damage(model.folder, every_byte=True), *find_strays(model.folder)]


def _outdated(metadata: Mapping[str, Any]) -> Iterator[str]:
    if (form := metadata.get("format")) != FORMAT:
        yield f"it has the format {form!r:.20}, and this version writes {FORMAT}"
    libraries = metadata.get("libraries")
    for name in _LIBRARIES:
        then = libraries.get(name) if isinstance(libraries, Mapping) else None
        if then != (now := installed_version(name) or "unknown"):
            yield f"it was converted with {name} {then!s:.40}, and {now} is installed"
    yield from _changed_sources(metadata.get("identity"))


def _changed_sources(identity: Any) -> Iterator[str]:
    """Look at the local folders that a conversion was made from: its own, and those of an adapter and its base."""
    if not isinstance(identity, Mapping):
        return
    path, files = identity.get("path"), identity.get("files")
    if isinstance(path, str):
        folder = Path(path)
        if not folder.is_dir():
            yield f"its source {path:.300} is gone"
        elif folder_state(folder) != files:
            yield f"files of its source {path:.300} have changed"
    for part in ("adapter", "base"):
        yield from _changed_sources(identity.get(part))
