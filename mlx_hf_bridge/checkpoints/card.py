"""Read the metadata of a repo's model card that carries over to a converted model."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
_KEPT_KEYS = ("language", "license", "license_name", "license_link", "datasets", "pipeline_tag", "base_model")


def read_card_metadata(folder: Path) -> dict[str, Any]:
    """Return the card's metadata that a conversion keeps; {} without a card, or if it is not valid YAML."""
    path = folder / CARD_FILE
    try:
        found = huggingface_hub.metadata_load(path) if path.is_file() else None
    except Exception as error:  # PyYAML's errors share no base with ValueError
        # A card is no reason to fail: the model loads without it.
        logger.warning("the metadata of %s cannot be read (%s) and is omitted", path, error)
        return {}
    return keep_card_metadata(found or {})


def keep_card_metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a card's metadata that a conversion keeps: strings and lists of strings, by known keys."""
    return {key: value for key, value in found.items() if key in _KEPT_KEYS and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Return whether a value is a string or a list of strings, which is what the Hub accepts."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
