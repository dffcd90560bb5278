"""YAML of strangers, read with a bound on how deeply it is nested: PyYAML's time grows with the square of the depth."""

from typing import Any

import yaml

# Metadata of model cards has 6 levels (the results of model-index); lists of models to convert have 4.
_MOST_LEVELS = 32


class _BoundedLoader(yaml.SafeLoader):
    """Counts the levels of a document while it is read."""

    levels = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read a value and those in it, unless they are nested too deeply."""
        if self.levels == _MOST_LEVELS:
            raise yaml.YAMLError(f"values are nested more than {_MOST_LEVELS} levels deep")
        self.levels += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.levels -= 1


def load_yaml(text: str) -> Any:
    """Return the content of a YAML text, of the types of JSON and dates; nothing else is built.

    Args:
        text: The text.

    Returns:
        Its content.

    Raises:
        yaml.YAMLError: If it is not YAML, or is nested too deeply.
        ValueError: For numbers and dates that Python does not have.
    """
    return yaml.load(text, _BoundedLoader)
