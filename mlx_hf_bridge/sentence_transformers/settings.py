"""What a repo's own files say of prompts, length and case; nothing is guessed from its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.loading.checkpoint import read_json
from mlx_hf_bridge.loading.folder import TRANSFORMER_FILES


@dataclass(frozen=True)
class Settings:
    """Prompts by name, the default one, a length limit, and the rest that encode needs."""

    prompts: Mapping[str, str]
    default_prompt_name: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    truncate_dim: int | None = None
    similarity_fn_name: str | None = None


def read_settings(folder: Path) -> Settings:
    """config_sentence_transformers.json and sentence_bert_config.json (or its older names) -> Settings."""
    model = _json_or_empty(folder / "config_sentence_transformers.json")
    transformer = next((_json_or_empty(folder / name) for name in TRANSFORMER_FILES if (folder / name).is_file()), {})
    prompts = dict(model.get("prompts") or {})
    default = model.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ConfigError(
            f"{folder} has default_prompt_name={default!r} and prompts for {sorted(prompts)}. "
            "Take the file of the original checkpoint."
        )
    length = transformer.get("max_seq_length")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise ConfigError(f"{folder} has max_seq_length={length!r}, expected a whole number of 1 or more.")
    return Settings(
        prompts=prompts,
        default_prompt_name=default,
        max_seq_length=length,
        do_lower_case=bool(transformer.get("do_lower_case", False)),
        truncate_dim=model.get("truncate_dim"),
        similarity_fn_name=model.get("similarity_fn_name"),
    )


def _json_or_empty(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
