"""Read conversion_metadata.json, what a converted folder says about itself; the folder may come from anyone."""

from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import METADATA_FILE, read_json
from mlx_hf_bridge.checkpoints.paths import relative_path
from mlx_hf_bridge.errors import ConfigError

_TEXTS = ("source", "revision", "dtype", "adapter")
_NUMBERS = ("weight_bytes", "source_bytes")
_OBJECTS = ("files", "card", "fidelity", "identity", "recipe")
_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    **dict.fromkeys(_TEXTS, (str, "a text")),
    **dict.fromkeys(_NUMBERS, ((int, float), "a number")),
    **dict.fromkeys(_OBJECTS, (dict, "an object")),
    "left_out": (list, "a list"),
}


def read_metadata(folder: Path) -> dict[str, Any]:
    """Read conversion_metadata.json.

    Args:
        folder: The converted folder.

    Returns:
        Its content, in which the keys that this package reads have the types that it writes, or are null; {} without
        the file.

    Raises:
        ConfigError: If it is not a JSON object, a value has another type, or a listed file is outside the folder.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return {}
    metadata = read_json(path)
    if not isinstance(metadata, dict):
        raise ConfigError(f"{path} is not a JSON object. Convert the model again.")
    for key, (kinds, expected) in _KINDS.items():
        value = metadata.get(key)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise ConfigError(f"{path} has {key}={value!r:.80}, expected {expected}. Convert the model again.")
    for name in metadata.get("files") or ():
        relative_path(name, path)
    return metadata
