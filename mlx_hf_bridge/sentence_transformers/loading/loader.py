"""A repo's modules.json becomes modules: a table from type to reader, and what each class does without the file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, TRANSFORMER_KINDS, ModuleEntry, read_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE
from mlx_hf_bridge.checkpoints.sources import Source, locate
from mlx_hf_bridge.conversion.tokenizer_files import tokenizer_config
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.loading.load import LoadedModel, load
from mlx_hf_bridge.sentence_transformers.loading.arguments import LoadArguments
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Module
from mlx_hf_bridge.sentence_transformers.modules.layers import WeightedLayerPooling
from mlx_hf_bridge.sentence_transformers.modules.logit_score import LogitScore
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import MultiVectorMask
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.router import Router
from mlx_hf_bridge.sentence_transformers.modules.sparse import SparseAutoEncoder, SpladePooling
from mlx_hf_bridge.sentence_transformers.modules.static import SparseStaticEmbedding, StaticEmbedding
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import HierarchicalTokenPooling
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import TransformerSettings, read_settings
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense, Dropout, LayerNorm, Normalize

# Types by last name: newer and older dotted names of sentence-transformers end alike.
READERS: dict[str, Callable[[Path], Module]] = {
    "Pooling": Pooling.read,
    "Normalize": Normalize.read,
    "LayerNorm": LayerNorm.read,
    "Dropout": Dropout.read,
    "WeightedLayerPooling": WeightedLayerPooling.read,
    "StaticEmbedding": StaticEmbedding.read,
    "SparseStaticEmbedding": SparseStaticEmbedding.read,
    "SpladePooling": SpladePooling.read,
    "SparseAutoEncoder": SparseAutoEncoder.read,
    "LogitScore": LogitScore.read,
    "MultiVectorMask": MultiVectorMask.read,
    "HierarchicalTokenPooling": HierarchicalTokenPooling.read,
}
_OWN_READERS = (*TRANSFORMER_KINDS, "Router", "Asym", "Dense")
# PyLate's classes are sentence-transformers' own under other names.
_PACKAGES = ("sentence_transformers.", "pylate.")


@dataclass
class ModuleLoader:
    """Reads the modules of one repo.

    defaults: keys of sentence_bert_config.json where the file leaves them out. dense_input: what a Dense reads whose
    config does not say. home: the folder that module folders are read from.
    """

    source: Source
    arguments: LoadArguments
    defaults: Mapping[str, Any] = field(default_factory=dict)
    default_dense_input: str = SENTENCE_EMBEDDING
    modules_root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.modules_root = self.source.folder

    def read_config(self) -> dict[str, Any]:
        """The repo's config.json."""
        config = read_json(self.source.folder / CONFIG_FILE)
        return config if isinstance(config, dict) else {}

    def load_modules(self, entries: Sequence[ModuleEntry]) -> list[Module]:
        """modules.json's entries -> modules. UnsupportedModelError names a type that is not computed here."""
        for entry in entries:
            _check_known(entry.kind, entry.type, str(self.source.folder))
        modules: list[Module] = []
        for entry in entries:
            if entry.kind in TRANSFORMER_KINDS:
                transformer = self.load_transformer(self.source, self.source.folder / entry.path, entry.kind)
                self.modules_root = transformer.loaded.folder
                modules.append(transformer)
            else:
                modules.append(self.load_module(entry.path, entry.kind))
        return modules

    def load_module(self, path: str, kind: str) -> Module:
        """Any module but a Transformer of modules.json itself, from its folder."""
        folder = self._folder(path)
        if kind in ("Router", "Asym"):
            return Router.read(folder, lambda name, type_: self._routed(f"{path}/{name}".lstrip("/"), type_))
        if kind == "Dense":
            return Dense.read(folder, self.default_dense_input)
        return READERS[kind](folder)

    def load_transformer(
        self, source: Source, folder: Path, kind: str = "Transformer", settings: TransformerSettings | None = None
    ) -> Transformer:
        """The model of a source with its tokenizer; `folder` has its sentence_bert_config.json."""
        if settings is None:
            settings = read_settings(folder, kind, self.defaults)
        given = self.arguments
        settings = replace(settings, max_seq_length=given.max_length or settings.max_seq_length)
        loaded = load(
            source,
            settings.head,
            quantization_config=given.quantization_config,
            dtype=given.dtype,
            options=source.options,
            pooler="pooler_output" in settings.output,
            trace=given.trace,
        )
        if given.output_hidden_states is not None:
            config = {**loaded.raw_config, "output_hidden_states": given.output_hidden_states}
            loaded = replace(loaded, raw_config=config)
        _check_words(loaded, settings)
        tokenizer = Tokenizer.from_folder(loaded.folder, {**tokenizer_config(loaded.folder), **given.tokenizer})
        if settings.do_lower_case:
            _lowercase_first(tokenizer)
        return Transformer(loaded, tokenizer, settings, given.overlong)

    def _routed(self, path: str, type_: str) -> Module:
        """A module of a route; a Transformer there is a checkpoint of its own in a subfolder."""
        kind = type_.rpartition(".")[2]
        _check_known(kind, type_, str(self.source.folder / path))
        if kind not in TRANSFORMER_KINDS:
            return self.load_module(path, kind)
        options = self.source.options
        inner = f"{options.subfolder}/{path}".lstrip("/")
        source = locate(self.source.name, replace(options, subfolder=inner))
        return self.load_transformer(source, source.folder, kind)

    def _folder(self, path: str) -> Path:
        if self.modules_root == self.source.folder:
            self.source.fetch([f"{path}/*"] if path else [SINGLE_FILE])
        return self.modules_root / path


def _check_known(kind: str, type_: str, where: str) -> None:
    if not type_.startswith(_PACKAGES):
        raise UnsupportedModelError(
            f"{where} has the module {type_}, a class of the repo's own, whose code is not run here. "
            "Use sentence-transformers on torch for this model."
        )
    if kind not in READERS and kind not in _OWN_READERS:
        raise UnsupportedModelError(
            f"{where} has the module {kind} ({type_}), which is not computed here; known are "
            f"{', '.join(sorted((*READERS, *_OWN_READERS)))}. Use sentence-transformers on torch for this model."
        )


def _check_words(loaded: LoadedModel, settings: TransformerSettings) -> None:
    if settings.transformer_task == "text-generation" and not loaded.config.tie_word_embeddings:
        raise ConfigError(
            f"{loaded.source.name} scores words by a table of its own (tie_word_embeddings is false), which is not "
            "computed here. Use sentence-transformers on torch for this model."
        )


def _lowercase_first(tokenizer: Tokenizer) -> None:
    present = tokenizer.backend.normalizer
    tokenizer.backend.normalizer = NormalizerSequence([Lowercase()] + ([present] if present else []))
