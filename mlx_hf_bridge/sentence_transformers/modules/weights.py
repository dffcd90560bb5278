"""Read the files of a module's folder: its config.json, and its weights in float32."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, SafetensorsFile
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.errors import ConfigError, RepositoryError
from mlx_hf_bridge.runtime.executor import run

TORCH_FILE = "pytorch_model.bin"
# Keys of older files, and today's.
_RENAMED = {
    "word_embedding_dimension": "embedding_dimension",
    "in_word_embedding_dimension": "in_embedding_dimension",
}


def read_module_config(folder: Path, optional: bool = False, name: str = CONFIG_FILE) -> dict[str, Any]:
    """Read the configuration of a module's folder, with old keys renamed to today's.

    Args:
        folder: The module's folder.
        optional: Whether the file may be absent.
        name: The name of the file. Default: "config.json".

    Returns:
        The content; {} for an optional file that is absent.

    Raises:
        ConfigError: If the file is not a JSON object.
    """
    path = folder / name
    if optional and not path.is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the original file.")
    return {_RENAMED.get(str(key), str(key)): value for key, value in config.items()}


def check_integer(config: Mapping[str, Any], key: str, folder: Path, default: int | None = None, least: int = 1) -> int:
    """Return an integer of a module's config.

    Args:
        config: The content of config.json.
        key: The key to read.
        folder: The module's folder, named in the error.
        default: The value where the key is absent; None makes it required.
        least: The smallest valid value.

    Returns:
        The value.

    Raises:
        ConfigError: If it is not an integer of `least` or more.
    """
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(
            f"{folder / CONFIG_FILE} has {key}={value!r}, expected an integer of {least} or more. "
            "Take the original file."
        )
    return value


def get_feature_name(config: Mapping[str, Any], key: str, folder: Path, default: Any = None) -> Any:
    """Return the name of a feature in a module's config.

    Args:
        config: The content of config.json.
        key: The key to read.
        folder: The module's folder, named in the error.
        default: The value where the key is absent.

    Returns:
        The name, or None.

    Raises:
        ConfigError: If it is not a text.
    """
    name = config.get(key, default)
    if name is not None and not isinstance(name, str):
        raise ConfigError(f"{folder / CONFIG_FILE} has {key}={name!r}, expected a text. Take the original file.")
    return name


def read_module_weights(folder: Path, exact: tuple[str, ...] = ()) -> dict[str, mx.array]:
    """Read model.safetensors or pytorch_model.bin of a module's folder.

    Args:
        folder: The module's folder.
        exact: Names of tensors that keep their dtype; other floating-point tensors become float32.

    Returns:
        MLX arrays by name.

    Raises:
        RepositoryError: If the folder has neither file.
    """
    if (folder / SINGLE_FILE).is_file():
        file: SafetensorsFile | TorchFile = SafetensorsFile(folder / SINGLE_FILE)
    elif (folder / TORCH_FILE).is_file():
        file = TorchFile(folder / TORCH_FILE)
    else:
        raise RepositoryError(f"{folder} has neither {SINGLE_FILE} nor {TORCH_FILE}. Download the repo again.")
    return run(
        lambda: {
            # float32: these weights are small next to the encoder's.
            name: array if name in exact or not mx.issubdtype(array.dtype, mx.floating) else array.astype(mx.float32)
            for name, array in file.arrays()
        }
    )


def get_tensor(arrays: Mapping[str, mx.array], name: str, shape: tuple[int, ...], folder: Path) -> mx.array:
    """Return a tensor, checked against the shape that the config implies.

    Args:
        arrays: The tensors of the module, by name.
        name: The tensor to return.
        shape: The expected shape.
        folder: The module's folder, named in the error.

    Returns:
        The tensor.

    Raises:
        ConfigError: If the tensor is absent or has another shape.
    """
    found = arrays[name].shape if name in arrays else None
    if found != shape:
        raise ConfigError(f"{folder} has {name} of shape {found}, expected {shape}. Take the original files.")
    return arrays[name]


def check_names(arrays: Mapping[str, mx.array], names: Collection[str], folder: Path) -> None:
    """Check that a module's weight file has no tensors that the module does not use, as torch's load_state_dict does.

    Args:
        arrays: The tensors of the file, by name.
        names: The names of those that the module uses.
        folder: The module's folder, named in the error.

    Raises:
        ConfigError: If there is another one, as where config.json says bias=false of a layer that has one.
    """
    if unused := sorted(set(arrays) - set(names)):
        raise ConfigError(
            f"{folder} has {', '.join(unused[:5])!s:.200}, which the module that its config describes does not use. "
            "Take the original files."
        )
