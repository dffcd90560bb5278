"""What of a repo's model card holds for what is made from it."""

import logging
from pathlib import Path
from typing import Any

import huggingface_hub

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
_CARRIED = ("language", "license", "license_name", "license_link", "datasets", "pipeline_tag", "base_model")


def read_card_metadata(folder: Path) -> dict[str, Any]:
    """The card's metadata that a conversion keeps; {} without a card, or with one that is not YAML."""
    path = folder / CARD_FILE
    try:
        found = huggingface_hub.metadata_load(path) if path.is_file() else None
    except Exception as error:  # PyYAML's errors share no base with ValueError
        logger.warning("the metadata of %s cannot be read (%s), and are left out", path, error)
        return {}
    return {key: value for key, value in (found or {}).items() if key in _CARRIED and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether a value is text or a list of texts, as the Hub knows them."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
