"""Chat templates on disk: chat_template.jinja and the folder of further ones, or a key of tokenizer_config.json."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.errors import ConfigError

CHAT_TEMPLATE = "chat_template"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
_DEFAULT = "default"
_MOST_NAME_BYTES = 200
_HALF_PAIR, _NOT_IN_NAMES = re.compile("[\ud800-\udfff]"), re.compile(r"[/\\\x00]")


def parse_templates(given: Any) -> str | dict[str, str] | None:
    """Return the chat templates of tokenizer_config.json.

    Args:
        given: A template, a list of dicts with a name and a template, a dict of templates by name, or None.

    Returns:
        The template, or templates by name; None for none.

    Raises:
        ConfigError: If it is of another form.
    """
    if given is None:
        return None
    pairs = [(_DEFAULT, given)]
    if isinstance(given, Mapping):
        pairs = list(given.items())
    elif isinstance(given, list) and all(isinstance(one, Mapping) for one in given):
        pairs = [(one.get("name"), one.get("template")) for one in given]
    if not all(_is_name(name) and _is_text(template) for name, template in pairs):
        raise ConfigError(
            f"{CHAT_TEMPLATE} is {given!r:.80}, expected a template, or templates by name, and no name is a path. "
            "Take the original."
        )
    return given if isinstance(given, str) else dict(pairs)


def _is_text(value: Any) -> bool:
    """Whether a value is text that a file can hold, which half of a surrogate pair is not."""
    return isinstance(value, str) and not _HALF_PAIR.search(value)


def _is_name(value: Any) -> bool:
    """Whether a value can be a part of a file's name on any system."""
    return _is_text(value) and len(value.encode()) <= _MOST_NAME_BYTES and not _NOT_IN_NAMES.search(value)


def read_templates(folder: Path) -> dict[str, Any]:
    """Return the chat templates of a folder's own files, which take precedence over tokenizer_config.json.

    Args:
        folder: The folder of a tokenizer.

    Returns:
        {"chat_template": template, or templates by name}; {} without such files.
    """
    files = {path.stem: path for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))}
    if (folder / TEMPLATE_FILE).is_file():
        files = {_DEFAULT: folder / TEMPLATE_FILE, **files}
    try:
        found = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    except ValueError as error:
        raise ConfigError(f"{folder} has a chat template that is not UTF-8 ({error}). Take the original.") from error
    if not found:
        return {}
    return {CHAT_TEMPLATE: found[_DEFAULT] if list(found) == [_DEFAULT] else found}


def write_templates(templates: str | Mapping[str, str] | None, folder: Path) -> None:
    """Write chat templates as transformers does, in place of those that the folder has.

    Args:
        templates: A template, templates by name, or None.
        folder: An existing folder.

    Raises:
        ConfigError: If a name is a path.
    """
    named = {_DEFAULT: templates} if isinstance(templates, str) else dict(templates or {})
    for path in (folder / TEMPLATE_FILE, *(folder / TEMPLATE_FOLDER).glob("*.jinja")):
        path.unlink(missing_ok=True)
    for name, template in named.items():
        if not _is_name(name):
            raise ConfigError(f"a chat template has the name {name!r:.80}, which is a path. Take the original file.")
        path = folder / (TEMPLATE_FILE if name == _DEFAULT else f"{TEMPLATE_FOLDER}/{name}.jinja")
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")
