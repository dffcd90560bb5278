"""A replacement of the module of this name for transformers' token-classification file, which imports it up to 5.21."""

from typing import Any

from mlx_hf_bridge.conversion.tokenizer_files import import_transformers


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # Python itself asks for these
        raise AttributeError(name)
    return getattr(import_transformers().models.bert.tokenization_bert_legacy, name)
