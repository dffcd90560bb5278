"""What an output folder already contains: nothing, the very result that is asked for, or something else."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE, NPZ_FILE
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.conversion.integrity import is_complete, read_metadata
from mlx_hf_bridge.conversion.write import FORMAT
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig


def check_replaceable(folder: Path, source: Source) -> None:
    """Raise RepositoryError for a file, and for a folder that contains the source or the working directory."""
    if folder.exists() and not folder.is_dir():
        raise RepositoryError(f"{folder} is a file, expected a folder to convert into. Give another path.")
    for what, inner in (("the source itself", source.folder), ("the working directory", Path())):
        # Replacing the folder would delete the source while it is read.
        if inner.resolve().is_relative_to(folder.resolve()):
            raise RepositoryError(
                f"{folder} contains {what}, {inner.resolve()}, which the result would replace. Give another folder."
            )


def is_occupied(folder: Path) -> bool:
    """Whether the folder exists and is not empty."""
    return folder.is_dir() and any(folder.iterdir())


def same_result(
    folder: Path, source: Source, task: str, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype
) -> dict[str, Any]:
    """Return the metadata of a complete folder that was converted from the same source in the same way.

    Args:
        folder: The output folder.
        source: The source that is to be converted.
        task: The task that is asked for.
        recipe: The recipe that is asked for.
        dtype: The dtype that is asked for.

    Raises:
        RepositoryError: If the folder contains anything else; the message says what.
    """
    wanted = {
        "format": FORMAT,
        "source": source.name,
        "revision": source.revision,
        "identity": source.identity,
        "task": task,
        "recipe": recipe.to_dict() if recipe else None,
        "dtype": str(dtype).removeprefix("mlx.core."),
    }
    metadata = read_metadata(folder)
    if (folder / NPZ_FILE).exists():
        why = f"holds {NPZ_FILE}, another tool's float32 output, which is not a result of this package"
    elif metadata is None:
        why = f"is not empty and has no readable {METADATA_FILE}, so it is not a result of this package"
    elif differences := _differences(metadata, wanted):
        why = f"holds another conversion: {'; '.join(differences)}"
    elif not is_complete(folder):
        why = f"is incomplete: files that its {METADATA_FILE} lists are missing or of other sizes"
    else:
        return metadata
    raise RepositoryError(f"{folder} {why}. Pass --no-skip (overwrite=True) to replace it, or give another folder.")


def _differences(metadata: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    there, asked = _comparable(metadata), _comparable(wanted)
    found = [
        f"its {key} is {there.get(key)!r}, and {asked[key]!r} was asked for"
        for key in asked
        if there.get(key) != asked[key]
    ]
    if found or metadata.get("identity") == wanted["identity"]:
        return found
    return ["the files of its source have changed since"]


def _comparable(facts: dict[str, Any]) -> dict[str, Any]:
    """Return metadata without `identity`; a local source by its resolved path, however it was spelled."""
    identity = facts.get("identity")
    path = identity.get("path") if isinstance(identity, dict) else None
    return {**{key: value for key, value in facts.items() if key != "identity"}, "source": path or facts.get("source")}
