"""A module's own files: its config.json, and its weights in float32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, SafetensorsFile
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.errors import ConfigError, RepositoryError
from mlx_hf_bridge.runtime.executor import run

_TORCH_FILE = "pytorch_model.bin"
# Keys of older files -> today's.
_RENAMED = {"word_embedding_dimension": "embedding_dimension"}


def read_module_config(folder: Path, optional: bool = False) -> dict[str, Any]:
    """config.json of a module's folder with today's keys; {} without the file where it is optional."""
    path = folder / CONFIG_FILE
    if optional and not path.is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the original file.")
    return {_RENAMED.get(str(key), str(key)): value for key, value in config.items()}


def check_integer(config: Mapping[str, Any], key: str, folder: Path, default: int | None = None, least: int = 1) -> int:
    """A key of a module's config that must be a whole number."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{folder / CONFIG_FILE} has {key}={value!r}, expected a whole number of {least} or more. "
            "Take the original file."
        )
    return value


def read_module_weights(folder: Path, exact: tuple[str, ...] = ()) -> dict[str, mx.array]:
    """model.safetensors or pytorch_model.bin, float tensors in float32; `exact` names keep their dtype."""
    if (folder / SINGLE_FILE).is_file():
        file: SafetensorsFile | TorchFile = SafetensorsFile(folder / SINGLE_FILE)
    elif (folder / _TORCH_FILE).is_file():
        file = TorchFile(folder / _TORCH_FILE)
    else:
        raise RepositoryError(f"{folder} has neither {SINGLE_FILE} nor {_TORCH_FILE}. Download the repo again.")
    return run(
        lambda: {
            name: array if name in exact or not mx.issubdtype(array.dtype, mx.floating) else array.astype(mx.float32)
            for name, array in file.arrays()
        }
    )


def get_tensor(arrays: Mapping[str, mx.array], name: str, shape: tuple[int, ...], folder: Path) -> mx.array:
    """The tensor of that name; ConfigError unless it is there in the shape that the config says."""
    found = arrays[name].shape if name in arrays else None
    if found != shape:
        raise ConfigError(f"{folder} has {name} {found}, expected {shape}. Take the original files.")
    return arrays[name]
