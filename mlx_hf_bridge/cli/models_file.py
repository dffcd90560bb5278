"""Read the YAML file of models to convert; keys, types and contradictions are checked before anything is converted."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.yaml_text import load_yaml
from mlx_hf_bridge.cli.options.shared import BITS_CHOICES
from mlx_hf_bridge.cli.quantization_options import DTYPES, QuantizationOptions
from mlx_hf_bridge.conversion.api import TASKS
from mlx_hf_bridge.errors import ConfigError, QuantizationError
from mlx_hf_bridge.quantization.methods import METHODS
from mlx_hf_bridge.quantization.recipes import BITS

_KEYS: dict[str, type] = {"name": str, "hf_name": str, "task": str, "revision": str, "quantization": dict}
_QUANTIZATION_KEYS: dict[str, type] = {
    "bits": int,
    "group_size": int,
    "mode": str,
    "dtype": str,
    "recipe": str,
    "method": str,
    "calibration_texts": str,
    "bits_per_weight": float,
    "target_size_mb": float,
}
_SET_BY_RECIPE = ("bits", "group_size", "mode")
_REQUIRED = ("name", "hf_name")
_KINDS = {str: "a string", int: "an integer", float: "a number", dict: "a mapping", list: "a list"}
_CHOICES = {"task": tuple(TASKS), "bits": BITS_CHOICES, "mode": tuple(BITS), "dtype": DTYPES, "method": METHODS}


@dataclass(frozen=True)
class ModelEntry:
    """One model to convert; its folder's name starts with `name`."""

    name: str
    hf_name: str
    task: str | None = None
    revision: str | None = None
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    target_size_mb: float | None = None


def read_models(path: Path) -> list[ModelEntry]:
    """Read the file's entries.

    Args:
        path: The YAML file.

    Returns:
        The entries in order.

    Raises:
        ConfigError: If the file cannot be read or an entry is wrong; it names the file, the entry and the key.
    """
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no config {path}. Give --config FILE, or --model with a Hub id or a folder."
        ) from error
    except Exception as error:  # PyYAML's own, and what int() and datetime() raise for its values
        raise ConfigError(f"{path} cannot be read as YAML ({error}). Correct it.") from error
    _check_keys(content, {"models": list}, ("models",), str(path))
    entries = [_entry(raw, f"{path}: models[{number}]") for number, raw in enumerate(content["models"])]
    names = [entry.name for entry in entries]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path} has the name {doubled[0]!r} more than once. Give every model another name.")
    if not entries:
        raise ConfigError(f"{path} has an empty list of models. Add an entry with name and hf_name.")
    return entries


def _entry(raw: Any, where: str) -> ModelEntry:
    _check_keys(raw, _KEYS, _REQUIRED, where)
    where = f"{where} ({raw['name']})"
    if not re.fullmatch(r"[\w.-]+", raw["name"]) or raw["name"] in (".", ".."):
        raise ConfigError(
            f"{where} has name={raw['name']!r}, expected letters, digits, '.', '_' and '-': it names a folder."
        )
    quantization = dict(raw.get("quantization", {}))
    _check_keys(quantization, _QUANTIZATION_KEYS, (), f"{where}: quantization")
    for key in ("target_size_mb", "bits_per_weight"):
        if (number := quantization.get(key)) is not None and not number > 0:
            raise ConfigError(f"{where}: quantization has {key}={number}, expected a number greater than 0.")
    if quantization.get("recipe") and (others := [key for key in _SET_BY_RECIPE if key in quantization]):
        raise ConfigError(
            f"{where}: quantization has recipe={quantization['recipe']!r}, which sets {', '.join(others)} too. "
            "Leave one of them out."
        )
    target = quantization.pop("target_size_mb", None)
    entry = ModelEntry(
        raw["name"], raw["hf_name"], raw.get("task"), raw.get("revision"), QuantizationOptions(**quantization), target
    )
    try:
        entry.quantization.resolve()
    except QuantizationError as error:
        raise ConfigError(f"{where}: quantization: {error}") from error
    return entry


def _check_keys(raw: Any, known: dict[str, type], required: tuple[str, ...], where: str) -> None:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} is {raw!r}, expected a mapping with the keys {', '.join(known)}.")
    for key, value in raw.items():
        if key not in known:
            raise ConfigError(f"{where} has the unknown key {key!r}; known keys are {', '.join(known)}.")
        kinds = (int, float) if known[key] is float else (known[key],)
        if isinstance(value, bool) or not isinstance(value, kinds) or value == "":
            raise ConfigError(f"{where} has {key}={value!r}, expected {_KINDS[known[key]]}.")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ConfigError(f"{where} has {key}={value!r}, expected one of {', '.join(map(str, _CHOICES[key]))}.")
    if missing := [key for key in required if key not in raw]:
        raise ConfigError(f"{where} has no {missing[0]!r}; required keys are {', '.join(required)}. Add it.")
