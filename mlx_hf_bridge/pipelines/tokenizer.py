"""Which tokenizer a pipeline reads with: the model's own, or the one that it was given."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from mlx_hf_bridge.errors import ArgumentTypeError, InputError
from mlx_hf_bridge.inference.tokenizer import Text, Tokenizer, Tokens
from mlx_hf_bridge.loading.checkpoint import CONFIG_FILE, Checkpoint, read_json
from mlx_hf_bridge.loading.load import Loaded
from mlx_hf_bridge.loading.source import HubOptions, locate
from mlx_hf_bridge.loading.tokenizer_files import build_tokenizer, tokenizer_config

_SEGMENTS = "token_type_ids"


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and whether the model is given its segments (transformers' `model_input_names`)."""

    tokenizer: Tokenizer
    gives_segments: bool = True

    def encode(self, texts: list[Text], max_length: int | None = None, strategy: str = "longest_first") -> list[Tokens]:
        """Texts or pairs -> tokens, cut to `max_length` (None = never); InputError if the strategy cannot do that."""
        try:
            tokens = self.tokenizer.encode(texts, max_length, strategy)
        except Exception as error:  # tokenizers raises this bare class
            if "Truncation error" not in str(error):
                raise
            raise InputError(
                f"truncation={strategy!r} to max_length={max_length} cannot be done: {error}. "
                "Pass truncation=True, which cuts the longer of text and pair."
            ) from error
        return tokens if self.gives_segments else [replace(one, segments=np.zeros_like(one.ids)) for one in tokens]


def reader_for(given: Any, loaded: Loaded, options: HubOptions) -> Reader:
    """None (the model's own), a Hub id or folder, one of our tokenizers or a transformers fast one -> Reader.

    Raises RepositoryError for a repo without a tokenizer, ArgumentTypeError for any other object.
    """
    if given is None:
        config = tokenizer_config(loaded.folder)
        names = config.get("model_input_names") or [_SEGMENTS]
        return Reader(Tokenizer.from_folder(loaded.folder, config), _SEGMENTS in names)
    if isinstance(given, Tokenizer):
        return Reader(given)
    if isinstance(given, (str, Path)):
        source = locate(given, options)
        config_file = source.folder / CONFIG_FILE
        config = read_json(config_file) if config_file.is_file() else {}
        given = build_tokenizer(Checkpoint(source, source.folder, source.folder, config, None), loaded.family)
    return _from_transformers(given)


def _from_transformers(given: Any) -> Reader:
    backend = getattr(given, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ArgumentTypeError(
            f"tokenizer is a {type(given).__name__}, expected a Hub id, a folder or a fast tokenizer of transformers "
            "(tokenizer.is_fast). Leave it out to use the model's own."
        )
    config = {name: getattr(given, name) for name in ("model_max_length", "truncation_side", "pad_token")}
    return Reader(
        Tokenizer(tokenizers.Tokenizer.from_str(backend.to_str()), config), _SEGMENTS in given.model_input_names
    )
