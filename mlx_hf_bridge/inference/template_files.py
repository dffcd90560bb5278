"""Chat templates on disk: chat_template.jinja and the folder of further ones, or a key of tokenizer_config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.errors import ConfigError

CHAT_TEMPLATE = "chat_template"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
_DEFAULT = "default"


def parse_templates(given: Any) -> str | dict[str, str] | None:
    """Return the chat templates of tokenizer_config.json.

    Args:
        given: A template, a list of dicts with a name and a template, a dict of templates by name, or None.

    Returns:
        The template, or templates by name; None for none.

    Raises:
        ConfigError: If it is of another form.
    """
    if isinstance(given, list) and all(isinstance(one, Mapping) for one in given):
        given = {one.get("name"): one.get("template") for one in given}
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Mapping) and all(isinstance(part, str) for pair in given.items() for part in pair):
        return dict(given)
    raise ConfigError(
        f"{CHAT_TEMPLATE} is {given!r:.80}, expected a template, or templates by name. Take the original."
    )


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
        path = folder / (TEMPLATE_FILE if name == _DEFAULT else f"{TEMPLATE_FOLDER}/{name}.jinja")
        if path.parent not in (folder, folder / TEMPLATE_FOLDER):
            raise ConfigError(f"a chat template has the name {name!r:.80}, which is a path. Take the original file.")
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")
