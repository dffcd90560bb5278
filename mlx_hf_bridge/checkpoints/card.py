"""Read the metadata of a repo's model card that carries over to a converted model."""

import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.yaml_text import load_yaml

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"
_KEPT_KEYS = ("language", "license", "license_name", "license_link", "datasets", "pipeline_tag", "base_model")
# As huggingface_hub finds the metadata between two lines of dashes.
_METADATA = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", re.DOTALL)
_MOST_CHARACTERS, _MOST_KEPT = 2**24, 2**14


def read_card_metadata(folder: Path) -> dict[str, Any]:
    """Return the card's metadata that a conversion keeps; {} without a card, or if it is not valid YAML."""
    return keep_card_metadata(read_card_entries(folder, _KEPT_KEYS))


def read_card_entries(folder: Path, keys: Collection[str]) -> dict[str, Any]:
    """Read entries of a model card's metadata.

    Args:
        folder: The folder of the checkpoint.
        keys: The entries to read.

    Returns:
        The entries that the card has; {} without a card, or if it is not valid YAML.
    """
    path = folder / CARD_FILE
    try:
        found = load_yaml(_lines_of(path, keys)) if path.is_file() else None
    except Exception as error:  # PyYAML's errors share no base with ValueError
        # A card is no reason to fail: the model loads without it.
        logger.warning("the metadata of %s cannot be read (%s) and is omitted", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def _lines_of(path: Path, keys: Collection[str]) -> str:
    """Return the lines of a card's metadata about some keys: tables of results are long, and YAML is slow."""
    with path.open(encoding="utf-8-sig") as card:
        text = card.read(_MOST_CHARACTERS)
    found = _METADATA.match(text)
    # An entry goes on until the next line that starts with a key.
    entries = re.split(r"^(?=\w)", found[1] if found else "", flags=re.MULTILINE)
    return "".join(entry for entry in entries if entry.partition(":")[0] in keys)[:_MOST_KEPT]


def keep_card_metadata(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a card's metadata that a conversion keeps: strings and lists of strings, by known keys."""
    return {key: value for key, value in found.items() if key in _KEPT_KEYS and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Return whether a value is a string or a list of strings, which is what the Hub accepts."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
