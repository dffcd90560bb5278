"""The supported architectures: one file per model_type, each with a `FAMILY`.

docs/adding-a-model.md shows how to add one.
"""

import functools
import importlib
import pkgutil
from typing import Any

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.architecture.gliner import GLINER_KEY, LABELS_KEY, gliner_family
from mlx_hf_bridge.architecture.remote_code import architecture_of
from mlx_hf_bridge.architecture.unsupported import LORA_KEY, UNSUPPORTED, remote_code_note
from mlx_hf_bridge.errors import UnsupportedModelError

# Families whose LoRA of each task is read (loading/tasks.py).
_WITH_TASKS = ("xlm_roberta_flash",)


def model_types() -> list[str]:
    """Return every model_type that has a file here, sorted."""
    return sorted(_family_in(file).model_type for file in _files())


def family_for(raw_config: dict[str, Any]) -> Family:
    """Return the family of a config.json's model_type; UnsupportedModelError with the reason if there is none."""
    model_type = raw_config.get("model_type")
    if isinstance(model_type, str) and model_type in UNSUPPORTED:
        raise UnsupportedModelError(
            f"config.json has model_type={model_type!r}, which is not supported: {UNSUPPORTED[model_type]}. "
            "Use transformers on torch for this one."
        )
    if (adaptations := raw_config.get(LORA_KEY)) and architecture_of(raw_config) not in _WITH_TASKS:
        raise UnsupportedModelError(
            f"config.json has {LORA_KEY}={adaptations}: the repo's remote code adds a task's LoRA to the weights, "
            "and outputs would differ without it. Load the form that transformers reads (for jina-embeddings-v3 "
            "jinaai/jina-embeddings-v3-hf), or use transformers on torch with trust_remote_code."
        )
    if not is_native(raw_config):
        raise UnsupportedModelError(
            f"config.json has model_type={model_type!r}; supported are {', '.join(model_types())}. "
            f"{remote_code_note(raw_config)}"
            "Use a checkpoint of one of these, or transformers on torch for this one."
        )
    family = _family_in(str(architecture_of(raw_config)).replace("-", "_"))
    if GLINER_KEY in raw_config or LABELS_KEY in raw_config:
        return gliner_family(family, raw_config, _labels_size(raw_config))
    return family


def _labels_size(raw_config: dict[str, Any]) -> int:
    """Return the hidden size of a GLiNER model's encoder of labels; 0 without one."""
    gliner = raw_config.get(GLINER_KEY)
    labels = gliner.get("labels_encoder_config") if isinstance(gliner, dict) else None
    return int(family_for(labels).config.from_json(labels).hidden_size) if isinstance(labels, dict) else 0


def is_native(raw_config: dict[str, Any]) -> bool:
    """Return whether a parsed config.json's model_type has a file here."""
    model_type = raw_config.get("model_type")
    file = model_type.replace("-", "_") if isinstance(model_type, str) else ""
    return file in _files() and _family_in(file).model_type == model_type


@functools.cache
def _files() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def _family_in(file: str) -> Family:
    family: Family = importlib.import_module(f"{__name__}.{file}").FAMILY
    return family


def types_with_head(task: str) -> list[str]:
    """Return every model_type that has a head for the task, sorted."""
    return [model_type for model_type in model_types() if task in family_for({"model_type": model_type}).heads]
