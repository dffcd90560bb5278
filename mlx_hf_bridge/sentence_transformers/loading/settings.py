"""Saved settings of a model, config_sentence_transformers.json, and the prompts in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.errors import ConfigError, InputError

MODEL_FILE = "config_sentence_transformers.json"
# Keys whose values are texts; the last two are PyLate's.
_TEXTS = ("default_prompt_name", "similarity_fn_name", "model_type", "activation_fn", "query_prefix", "document_prefix")


def read_model_config(folder: Path) -> dict[str, Any]:
    """Read config_sentence_transformers.json.

    Args:
        folder: The folder of the checkpoint.

    Returns:
        Its contents; {} without the file.

    Raises:
        ConfigError: If it is not a JSON object, its prompts are not texts by name, or a name is none.
    """
    path = folder / MODEL_FILE
    if not path.is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the original file.")
    prompts = config.get("prompts", {})
    if not isinstance(prompts, dict) or (wrong := [name for name in prompts if not _is_prompt(prompts[name])]):
        found = prompts if not isinstance(prompts, dict) else {name: prompts[name] for name in wrong}
        raise ConfigError(f"{path} has prompts={found!r:.80}, expected texts by name. Take the original file.")
    for key in _TEXTS:
        if config.get(key) is not None and not isinstance(config[key], str):
            raise ConfigError(f"{path} has {key}={config[key]!r:.80}, expected a text. Take the original file.")
    return config


def _is_prompt(text: Any) -> bool:
    return text is None or isinstance(text, str)


def merge_prompts(
    defaults: Mapping[str, str | None], given: Mapping[str, str] | None, saved: Mapping[str, Any]
) -> dict[str, str]:
    """Return a model's prompts: the given ones, then the saved ones, then "".

    Args:
        defaults: The prompts that the class always has; None for those that may be saved.
        given: The constructor's prompts, which take precedence even if they are empty.
        saved: The contents of config_sentence_transformers.json.

    Returns:
        Prompts by name.

    Raises:
        InputError: If the given ones are not texts by name.
    """
    if given and not (isinstance(given, Mapping) and all(_is_prompt(text) for text in given.values())):
        raise InputError(f"prompts={given!r:.80}, expected a dict of texts by prompt name.")
    prompts = {**defaults, **(given or {})}
    for name, text in (saved.get("prompts") or {}).items():
        if prompts.get(name) is None:
            prompts[name] = text
    # None means that nobody set it, "" that it is empty.
    return {name: text or "" for name, text in prompts.items()}


def check_prompt_name(name: str | None, prompts: Mapping[str, str]) -> str | None:
    """Return the name of the default prompt once it is checked.

    Args:
        name: A name, or None for no default prompt.
        prompts: The model's prompts by name.

    Returns:
        The name.

    Raises:
        InputError: If there is no such prompt.
    """
    if name is not None and (not isinstance(name, str) or name not in prompts):
        raise InputError(
            f"default_prompt_name={name!r} is not one of the model's prompts, {sorted(prompts)}. Give one of these."
        )
    return name
