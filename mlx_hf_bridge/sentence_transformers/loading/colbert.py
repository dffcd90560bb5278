"""Loads ColBERT checkpoints of PyLate and of Stanford as modules of sentence-transformers' MultiVectorEncoder.

Reference: sentence_transformers/multi_vector_encoder/model.py (_parse_model_config, _load_default_modules,
_load_converted_modules, _apply_legacy_fixups).
"""

import logging
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from mlx_hf_bridge.checkpoints.checkpoint import read_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, SafetensorsFile
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Module
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import MultiVectorMask
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import parse_settings
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense, Normalize

logger = logging.getLogger(__name__)

_STANFORD = "HF_ColBERT"
_STANFORD_FILE = "artifact.metadata"
# Keys in config_sentence_transformers.json that only PyLate writes.
_PYLATE_KEYS = (
    "query_length",
    "document_length",
    "query_expansion",
    "do_query_expansion",
    "attend_to_expansion_tokens",
    "attend_to_mask_tokens",
    "query_prefix",
    "document_prefix",
    "skiplist_words",
)
# ColBERT's query length, for files that name none.
_DEFAULT_QUERY_LENGTH = 32


# The class that writes modules.json and names no model_type: sentence-transformers before version 5, and PyLate on it.
_OLDER = "SentenceTransformer"
_PYLATE, _NATIVE = "ColBERT", "MultiVectorEncoder"


@dataclass(frozen=True)
class LegacyColBERT:
    """The settings of an older ColBERT checkpoint, as sentence-transformers has them today.

    Args:
        transformer: Settings of the Transformer module: lengths and query expansion.
        settings: Settings of the model, such as prompts.
        prefixes: Marker tokens before queries and documents; None if the checkpoint names none.
        skiplist: Words of documents that are not scored; None if the checkpoint does not say.
    """

    transformer: Mapping[str, Any]
    settings: dict[str, Any]
    prefixes: tuple[str, ...] | None = None
    skiplist: list[str] | None = None


def load_multi_vector(loader: ModuleLoader, saved: dict[str, Any]) -> tuple[list[Module], dict[str, Any]]:
    """Load the modules of a MultiVectorEncoder, or of an older checkpoint that becomes one.

    Args:
        loader: Reads the modules of the checkpoint; its defaults are changed.
        saved: The contents of config_sentence_transformers.json.

    Returns:
        The modules, and those of the saved settings that apply to them.

    Raises:
        UnsupportedModelError: If sentence-transformers would add a randomly initialized projection.
    """
    entries, is_stanford = loader.read_entries(), _STANFORD in (loader.read_config().get("architectures") or [])
    loader.default_dense_input = TOKEN_EMBEDDINGS
    if entries is None:
        if not is_stanford:
            raise UnsupportedModelError(_without_projection(loader))
        return _load_stanford(loader)
    legacy = _pylate(saved)
    # PyLate keeps lengths and expansion in the model's settings, where a Transformer does not look for them.
    loader.defaults = legacy.transformer
    written_by = saved.get("model_type") or (_NATIVE if is_stanford else saved.get("model_type", _OLDER))
    if written_by not in (_PYLATE, _NATIVE, _OLDER):
        raise UnsupportedModelError(_without_projection(loader, f"was saved as model_type={written_by!r}"))
    modules = loader.load_modules(entries)
    if written_by == _OLDER:
        logger.warning("%s was saved as a %s and is loaded as a %s", loader.source.name, _OLDER, _NATIVE)
        modules = _token_level(loader, modules)
    if written_by != _NATIVE:
        is_pylate = written_by == _PYLATE or legacy.prefixes is not None
        skiplist = list(string.punctuation) if legacy.skiplist is None and is_pylate else legacy.skiplist
        modules = [*modules, MultiVectorMask(skiplist), Normalize(TOKEN_EMBEDDINGS)]
    _register(modules, legacy.prefixes or ())
    return modules, legacy.settings


def _pylate(saved: Mapping[str, Any]) -> LegacyColBERT:
    prompts = dict(saved.get("prompts") or {})
    prefixes = []
    for key, name in (("query_prefix", "query"), ("document_prefix", "document")):
        if key in saved:
            prefix = saved[key] or ""
            prefixes.append(prefix)
            # A prompt may begin with the prefix already, which must not be there twice.
            prompts[name] = prefix + (prompts.get(name) or "").removeprefix(prefix)
    return LegacyColBERT(
        transformer=_pylate_lengths(saved) if any(key in saved for key in _PYLATE_KEYS) else {},
        settings={**saved, "prompts": prompts},
        prefixes=tuple(prefixes) or None,
        skiplist=saved.get("skiplist_words"),
    )


def _pylate_lengths(saved: Mapping[str, Any]) -> dict[str, Any]:
    lengths = {key: saved[key] for key in ("query_length", "document_length") if saved.get(key) is not None}
    if "query_expansion" in saved:
        return {**lengths, "query_expansion": saved["query_expansion"]}
    if saved.get("do_query_expansion") is False:
        return lengths
    attend = saved.get("attend_to_expansion_tokens", saved.get("attend_to_mask_tokens"))
    length = lengths.pop("query_length", None) or _DEFAULT_QUERY_LENGTH
    return {**lengths, "query_expansion": {"strategy": "fixed", "attend": bool(attend), "length": length}}


def _load_stanford(loader: ModuleLoader) -> tuple[list[Module], dict[str, Any]]:
    """Load Stanford's format, which has no modules.json."""
    source = loader.source
    source.fetch([_STANFORD_FILE])
    path = source.folder / _STANFORD_FILE
    metadata = read_json(path) if path.is_file() else {}
    prompts = {
        "query": (metadata.get("query_token_id") or "[unused0]") + " ",
        "document": (metadata.get("doc_token_id") or "[unused1]") + " ",
    }
    expansion = {
        "strategy": "fixed",
        "attend": bool(metadata.get("attend_to_mask_tokens")),
        "length": metadata.get("query_maxlen") or _DEFAULT_QUERY_LENGTH,
    }
    length = metadata.get("doc_maxlen")
    lengths = {"query_expansion": expansion} | ({} if length is None else {"document_length": length})
    settings = parse_settings(lengths, "feature-extraction", str(source.folder))
    transformer = loader.load_transformer(source, source.folder, settings=settings)
    skiplist = list(string.punctuation) if metadata.get("mask_punctuation", True) else []
    projection = _stanford_projection(transformer)
    modules = [transformer, projection, MultiVectorMask(skiplist), Normalize(TOKEN_EMBEDDINGS)]
    _register(modules, tuple(prompts.values()))
    return modules, {"prompts": prompts}


def _stanford_projection(transformer: Transformer) -> Dense:
    """Return the projection, whose weight is stored with those of the encoder as "linear.weight"."""
    folder = transformer.loaded.folder
    arrays = run(lambda: dict(SafetensorsFile(folder / SINGLE_FILE).arrays()))
    if "linear.weight" not in arrays:
        raise ConfigError(
            f"{folder} is a Stanford ColBERT without linear.weight, its projection. Use the original checkpoint."
        )
    return Dense(arrays["linear.weight"], activation="Identity", module_input_name=TOKEN_EMBEDDINGS)


def _register(modules: Sequence[Module], prefixes: Sequence[str]) -> None:
    """Add marker tokens that the tokenizers would split when they are part of a text, although they have them."""
    for transformer in modules:
        if not isinstance(transformer, Transformer):
            continue
        backend = transformer.tokenizer.backend
        for prefix in prefixes:
            # The prefix with its space if the vocabulary has that, else the bare marker.
            for marker in (prefix, *prefix.split(None, 1)[:1]):
                if not marker.strip() or backend.token_to_id(marker) is None:
                    continue
                if backend.encode(marker, add_special_tokens=False).tokens != [marker]:
                    backend.add_special_tokens([tokenizers.AddedToken(marker, normalized=False, special=True)])
                break


def _token_level(loader: ModuleLoader, modules: Sequence[Module]) -> list[Module]:
    """Return the modules of a SentenceTransformer without pooling, with its Dense applied to every token instead."""
    kept = [module for module in modules if not isinstance(module, Pooling) and not _normalizes_sentences(module)]
    projections = [module for module in kept if isinstance(module, Dense)]
    if not projections or not any(isinstance(module, Transformer) for module in kept):
        raise UnsupportedModelError(_without_projection(loader))
    for module in projections:
        if module.module_input_name == SENTENCE_EMBEDDING:
            module.module_input_name = module.module_output_name = TOKEN_EMBEDDINGS
    return kept


def _normalizes_sentences(module: Module) -> bool:
    return isinstance(module, Normalize) and module.module_input_name == SENTENCE_EMBEDDING


def _without_projection(loader: ModuleLoader, why: str = "has no Dense to project tokens with") -> str:
    return (
        f"{loader.source.name} is not a saved MultiVectorEncoder and {why}; sentence-transformers would add a randomly "
        "initialized projection. Give a ColBERT checkpoint."
    )
