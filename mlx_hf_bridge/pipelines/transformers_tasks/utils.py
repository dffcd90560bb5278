"""A replacement of transformers.utils for transformers' pipeline files, in which torch is never available."""

from typing import Any

from mlx_hf_bridge.conversion.tokenizer_files import import_transformers


def is_torch_available() -> bool:
    """Return False even if torch is installed: importing it takes seconds, and nothing here computes with it.

    Returns:
        False.
    """
    return False


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # Python itself asks for these
        raise AttributeError(name)
    return getattr(import_transformers().utils, name)
