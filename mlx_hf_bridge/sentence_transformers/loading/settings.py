"""What a repo's own files say of prompts and scores; nothing is guessed from its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.errors import ConfigError, InputError

MODEL_FILE = "config_sentence_transformers.json"


def read_model_config(folder: Path) -> dict[str, Any]:
    """config_sentence_transformers.json, {} where there is none."""
    path = folder / MODEL_FILE
    if not path.is_file():
        return {}
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("prompts") or {}, dict):
        raise ConfigError(f"{path} is not a JSON object with prompts by name. Take the original file.")
    return config


def merge_prompts(
    usual: Mapping[str, str | None], given: Mapping[str, str] | None, saved: Mapping[str, Any]
) -> dict[str, str]:
    """The caller's prompts, then the saved ones, then ""; an empty text of the caller's stays as it is."""
    prompts = {**usual, **(given or {})}
    for name, text in (saved.get("prompts") or {}).items():
        if prompts.get(name) is None:
            prompts[name] = text
    return {name: text or "" for name, text in prompts.items()}


def check_prompt_name(name: str | None, prompts: Mapping[str, str]) -> str | None:
    """A default prompt that there is; InputError for another."""
    if name is not None and name not in prompts:
        raise InputError(
            f"default_prompt_name={name!r} is not one of the model's prompts, {sorted(prompts)}. Give one of these."
        )
    return name
