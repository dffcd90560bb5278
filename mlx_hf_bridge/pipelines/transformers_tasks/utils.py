"""transformers.utils for transformers' pipeline files, which then see no torch and import none."""

from typing import Any

from mlx_hf_bridge.conversion.tokenizer_files import import_transformers


def is_torch_available() -> bool:
    """No, even where it is installed: importing it takes seconds, and nothing here computes with it."""
    return False


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # Python's own questions about a module
        raise AttributeError(name)
    return getattr(import_transformers().utils, name)
