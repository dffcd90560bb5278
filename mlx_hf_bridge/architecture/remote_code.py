"""Architectures that share their model_type with another one, since the authors' code in auto_map reads their files.

Keys of config.json tell them apart: each of these changes what is computed, so that it stands in every such file. The
names in auto_map do not decide: fine-tuned copies have other ones or none.
"""

from collections.abc import Mapping
from typing import Any

# Class of the authors' code that reads a config.json without model_type -> the model_type.
_CONFIG_CLASSES = {"XLMRobertaFlashConfig": "xlm-roberta"}


def architecture_of(raw: Mapping[str, Any]) -> Any:
    """Return the name of the architecture that a config.json describes.

    Args:
        raw: The content of config.json.

    Returns:
        The model_type, or the `model_type` of the family in models/ that only the authors' code tells from it.
    """
    model_type = raw.get("model_type")
    positions = raw.get("position_embedding_type")
    if model_type == "bert" and (positions == "alibi" or raw.get("feed_forward_type") in ("geglu", "reglu")):
        return "jina_bert"
    if model_type == "bert" and "alibi_starting_size" in raw:
        return "mosaic_bert"
    if model_type == "xlm-roberta" and positions == "rotary":
        return "xlm_roberta_flash"
    return model_type


def with_model_type(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the model_type that a class of the authors' code stands for, if the file has none.

    Args:
        raw: The content of config.json.

    Returns:
        The same dict, or a new one with `model_type`.
    """
    if raw.get("model_type") is not None or not isinstance(auto_map := raw.get("auto_map"), Mapping):
        return raw
    config_class = str(auto_map.get("AutoConfig")).rpartition(".")[2]
    known = _CONFIG_CLASSES.get(config_class)
    return {**raw, "model_type": known} if known else raw


def names_code_of(raw: Mapping[str, Any], repo: str) -> bool:
    """Return whether auto_map takes its code from a repo.

    Args:
        raw: The content of config.json.
        repo: Part of the repo's name.

    Returns:
        True if an entry has the form "owner/repo--file.Class" with that name.
    """
    auto_map = raw.get("auto_map")
    values = auto_map.values() if isinstance(auto_map, Mapping) else ()
    return any(isinstance(value, str) and repo in value.partition("--")[0] and "--" in value for value in values)
