"""What a constructor changes of a checkpoint: keys of config.json, and how the tokenizer lowercases."""

import logging
from collections.abc import Mapping
from typing import Any

from tokenizers.normalizers import BertNormalizer, Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from mlx_hf_bridge.checkpoints.checkpoint import read_checkpoint
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.conversion.tokenizer_files import import_transformers
from mlx_hf_bridge.errors import ArgumentTypeError, UnsupportedModelError
from mlx_hf_bridge.inference.python_tokenizer import PythonBackend
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.loading.load import NO_CHANGES, Changes
from mlx_hf_bridge.loading.overrides import split_overrides
from mlx_hf_bridge.models import family_for, is_native

logger = logging.getLogger(__name__)

# Classes that read tokenizer.json as it stands, and take do_lower_case without an effect.
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizerFast", None)


def config_changes(source: Source, keys: Mapping[str, Any]) -> Changes:
    """Return the changes of config.json that config_kwargs asks for.

    Args:
        source: The folder or repository.
        keys: Keys of config.json and their values.

    Returns:
        The changes; a key that transformers' config class does not have is ignored with a warning, as it is there
        without one.

    Raises:
        ArgumentTypeError: If transformers has a key that is not implemented here.
    """
    if not keys:
        return NO_CHANGES
    raw = read_checkpoint(source).config
    if is_native(raw):
        applied, ignored = split_overrides(keys, raw, family_for(raw), lambda name: _has_key(raw, name))
    else:
        applied = {name: value for name, value in keys.items() if name in raw or _has_key(raw, name)}
        ignored = sorted(set(keys) - set(applied))
    if ignored:
        logger.warning("config_kwargs has %s, which this model's config does not have", ", ".join(ignored))
    return Changes(overrides=applied) if applied else NO_CHANGES


def _has_key(raw: Mapping[str, Any], name: str) -> bool:
    """Return whether transformers' config class has an attribute of this name."""
    import_transformers()
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = str(raw.get("model_type"))
    return model_type in CONFIG_MAPPING and hasattr(CONFIG_MAPPING[model_type](), name)


def set_lowercase(tokenizer: Tokenizer, lowercase: bool) -> None:
    """Let the tokenizer lowercase texts or not, as do_lower_case of transformers' BERT tokenizers does.

    Args:
        tokenizer: The tokenizer, which is changed.
        lowercase: Whether it lowercases.

    Raises:
        ArgumentTypeError: If its normalizer is not BERT's.
    """
    normalizer = tokenizer.backend.normalizer
    if isinstance(normalizer, BertNormalizer):
        normalizer.lowercase = lowercase
        tokenizer.backend.normalizer = normalizer
    elif tokenizer.config.get("tokenizer_class") not in _GENERIC:
        raise ArgumentTypeError(
            f"processor_kwargs has do_lower_case, which the normalizer {type(normalizer).__name__} of this tokenizer "
            "does not have. Lowercase the texts, or leave it out."
        )


def lowercase_first(tokenizer: Tokenizer) -> None:
    """Let the tokenizer lowercase texts before anything else, as do_lower_case of sentence_bert_config.json does.

    Args:
        tokenizer: The tokenizer, which is changed.

    Raises:
        UnsupportedModelError: If it is written in Python.
    """
    if isinstance(tokenizer.backend, PythonBackend):
        raise UnsupportedModelError(
            f"do_lower_case is not applied to a {tokenizer.config.get('tokenizer_class')}, which is written in Python. "
            "Lowercase the texts, and leave it out of sentence_bert_config.json."
        )
    present = tokenizer.backend.normalizer
    if isinstance(present, NormalizerSequence) and len(present) and isinstance(present[0], Lowercase):
        return  # saved with it
    tokenizer.backend.normalizer = NormalizerSequence([Lowercase()] + ([present] if present else []))
