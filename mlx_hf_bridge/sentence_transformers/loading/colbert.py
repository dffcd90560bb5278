"""Loads ColBERT checkpoints of PyLate and of Stanford as modules of sentence-transformers' MultiVectorEncoder.

Reference: sentence_transformers/multi_vector_encoder/model.py (_parse_model_config, _load_default_modules).
"""

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, read_json, read_modules
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE, SafetensorsFile
from mlx_hf_bridge.checkpoints.sources import Source
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.sentence_transformers.loading.loader import ModuleLoader
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, TOKEN_EMBEDDINGS, Module
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import MultiVectorMask
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense, Normalize

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


@dataclass(frozen=True)
class LegacyColBERT:
    """The settings of an older ColBERT checkpoint, as sentence-transformers has them today.

    Args:
        transformer: Settings of the Transformer module: lengths and query expansion.
        settings: Settings of the model, such as prompts.
        prefixes: Marker tokens before queries and documents.
        skiplist: Words of documents that are not scored.
        is_stanford: Whether it is Stanford's format, which has no modules.json.
    """

    transformer: Mapping[str, Any]
    settings: dict[str, Any]
    prefixes: tuple[str, ...] = ()
    skiplist: list[str] = field(default_factory=list)
    is_stanford: bool = False

    def load_modules(self, loader: ModuleLoader) -> list[Module]:
        """Load the modules, and add a mask and normalization if the checkpoint lists none.

        Args:
            loader: Reads the modules of the checkpoint; its defaults for Dense are changed.

        Returns:
            A Transformer, a projection, a MultiVectorMask and a Normalize.
        """
        loader.default_dense_input = TOKEN_EMBEDDINGS
        if self.is_stanford:
            transformer = loader.load_transformer(loader.source, loader.source.folder)
            modules: list[Module] = [transformer, _stanford_projection(transformer)]
        else:
            modules = loader.load_modules(read_modules(loader.source.folder) or ())
        for module in modules:
            if isinstance(module, Transformer):
                _register(module, self.prefixes)
        if any(isinstance(module, MultiVectorMask) for module in modules):
            return modules
        return [*modules, MultiVectorMask(self.skiplist), Normalize(TOKEN_EMBEDDINGS)]


def detect_legacy(source: Source, saved: Mapping[str, Any]) -> LegacyColBERT | None:
    """Return the settings of an older ColBERT checkpoint.

    Args:
        source: The folder or repository.
        saved: The contents of its config_sentence_transformers.json.

    Returns:
        The settings, or None if it is not an older ColBERT checkpoint.
    """
    architectures = _config(source.folder).get("architectures") or []
    if not saved.get("model_type") and _STANFORD in architectures:
        return _stanford(source)
    if read_modules(source.folder) is None or saved.get("model_type") not in ("ColBERT", "MultiVectorEncoder"):
        return None
    if saved["model_type"] == "MultiVectorEncoder" and not any(key in saved for key in _PYLATE_KEYS):
        return None
    return _pylate(saved)


def _pylate(saved: Mapping[str, Any]) -> LegacyColBERT:
    prompts = dict(saved.get("prompts") or {})
    prefixes = []
    for key, name in (("query_prefix", "query"), ("document_prefix", "document")):
        if key in saved:
            prefix = saved[key] or ""
            prefixes.append(prefix)
            # A prompt may begin with the prefix already, which must not be there twice.
            prompts[name] = prefix + (prompts.get(name) or "").removeprefix(prefix)
    skiplist = saved.get("skiplist_words")
    return LegacyColBERT(
        transformer=_pylate_lengths(saved),
        settings={**saved, "prompts": prompts},
        prefixes=tuple(prefixes),
        skiplist=list(string.punctuation) if skiplist is None else skiplist,
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


def _stanford(source: Source) -> LegacyColBERT:
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
    return LegacyColBERT(
        transformer={"query_expansion": expansion} | ({} if length is None else {"document_length": length}),
        settings={"prompts": prompts},
        prefixes=tuple(prompts.values()),
        skiplist=list(string.punctuation) if metadata.get("mask_punctuation", True) else [],
        is_stanford=True,
    )


def _stanford_projection(transformer: Transformer) -> Dense:
    """Return the projection, whose weight is stored with those of the encoder as "linear.weight"."""
    folder = transformer.loaded.folder
    arrays = run(lambda: dict(SafetensorsFile(folder / SINGLE_FILE).arrays()))
    if "linear.weight" not in arrays:
        raise ConfigError(
            f"{folder} is a Stanford ColBERT without linear.weight, its projection. Use the original checkpoint."
        )
    return Dense(arrays["linear.weight"], activation="Identity", module_input_name=TOKEN_EMBEDDINGS)


def _register(transformer: Transformer, prefixes: tuple[str, ...]) -> None:
    """Add marker tokens that the tokenizer would split when they are part of a text, although it has them."""
    backend = transformer.tokenizer.backend
    for prefix in prefixes:
        # The prefix with its space if the vocabulary has that, else the bare marker.
        for marker in (prefix, *prefix.split(None, 1)[:1]):
            if not marker or backend.token_to_id(marker) is None:
                continue
            if backend.encode(marker, add_special_tokens=False).tokens != [marker]:
                backend.add_special_tokens([tokenizers.AddedToken(marker, normalized=False, special=True)])
            break


def default_modules(loader: ModuleLoader) -> list[Module]:
    """Return the modules of a SentenceTransformer with a Dense, which is applied to every token instead.

    Args:
        loader: Reads the modules of the checkpoint.

    Returns:
        The modules without pooling, with a mask and normalization added.

    Raises:
        UnsupportedModelError: If the checkpoint has no Dense, so that the projection would be randomly initialized.
    """
    entries = read_modules(loader.source.folder)
    modules = loader.load_modules(entries) if entries else []
    if not any(isinstance(module, Dense) for module in modules) or not isinstance(modules[0], Transformer):
        raise UnsupportedModelError(
            f"{loader.source.name} is not a saved MultiVectorEncoder and has no Dense to project tokens with; "
            "sentence-transformers would add a randomly initialized one. Give a ColBERT checkpoint."
        )
    kept = [module for module in modules if not isinstance(module, Pooling) and not _normalizes_sentences(module)]
    for module in kept:
        if isinstance(module, Dense) and module.module_input_name == SENTENCE_EMBEDDING:
            module.module_input_name = module.module_output_name = TOKEN_EMBEDDINGS
    return [*kept, MultiVectorMask(), Normalize(TOKEN_EMBEDDINGS)]


def _normalizes_sentences(module: Module) -> bool:
    return isinstance(module, Normalize) and module.module_input_name == SENTENCE_EMBEDDING


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    return config if isinstance(config, dict) else {}
