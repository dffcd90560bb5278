"""Which tokenizer a pipeline reads with: the model's own, or the one that it was given."""

from pathlib import Path
from typing import Any

import tokenizers

from mlx_hf_bridge.errors import ArgumentTypeError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.loading.checkpoint import CONFIG_FILE, Checkpoint, read_json
from mlx_hf_bridge.loading.load import Loaded
from mlx_hf_bridge.loading.source import HubOptions, locate
from mlx_hf_bridge.loading.tokenizer_files import build_tokenizer, tokenizer_config

_READ = ("model_max_length", "truncation_side", "pad_token", "model_input_names")


def tokenizer_for(given: Any, loaded: Loaded, options: HubOptions) -> Tokenizer:
    """None (the model's own), a Hub id or folder, one of our tokenizers or a transformers fast one -> Tokenizer.

    Raises RepositoryError for a repo without a tokenizer, ArgumentTypeError for any other object.
    """
    if given is None:
        return Tokenizer.from_folder(loaded.folder, tokenizer_config(loaded.folder))
    if isinstance(given, Tokenizer):
        return given
    if isinstance(given, (str, Path)):
        source = locate(given, options)
        config_file = source.folder / CONFIG_FILE
        config = read_json(config_file) if config_file.is_file() else {}
        given = build_tokenizer(Checkpoint(source, source.folder, source.folder, config, None), loaded.family)
    return _from_transformers(given)


def _from_transformers(given: Any) -> Tokenizer:
    """A copy, so that the caller's tokenizer keeps its own truncation and padding."""
    backend = getattr(given, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ArgumentTypeError(
            f"tokenizer is a {type(given).__name__}, expected a Hub id, a folder or a fast tokenizer of transformers "
            "(tokenizer.is_fast). Leave it out to use the model's own."
        )
    config = {name: getattr(given, name) for name in _READ}
    return Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()), config)
