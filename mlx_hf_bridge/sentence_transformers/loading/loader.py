"""ModuleLoader: loads the modules that modules.json lists, or a Transformer for a checkpoint without it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from mlx_hf_bridge.architecture.unsupported import LORA_KEY
from mlx_hf_bridge.checkpoints.checkpoint import (
    CLIP_KIND,
    CONFIG_FILE,
    MODULES_FILE,
    TRANSFORMER_KINDS,
    ModuleEntry,
    read_json,
    read_modules,
)
from mlx_hf_bridge.checkpoints.paths import check_inside, relative_path
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE
from mlx_hf_bridge.checkpoints.sources import Source, locate
from mlx_hf_bridge.conversion.tokenizer_files import load_tokenizer
from mlx_hf_bridge.errors import ArgumentTypeError, ConfigError, UnsupportedModelError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.loading.load import LoadedModel, load
from mlx_hf_bridge.loading.stored import naming
from mlx_hf_bridge.loading.tasks import tasks_of
from mlx_hf_bridge.models import is_native
from mlx_hf_bridge.pretrained.arguments import note_custom_code
from mlx_hf_bridge.runtime.file_errors import config_errors
from mlx_hf_bridge.sentence_transformers.loading.arguments import LoadArguments
from mlx_hf_bridge.sentence_transformers.loading.changes import config_changes, lowercase_first, set_lowercase
from mlx_hf_bridge.sentence_transformers.modules.base import SENTENCE_EMBEDDING, Module
from mlx_hf_bridge.sentence_transformers.modules.clip import CLIPModel, clip_settings
from mlx_hf_bridge.sentence_transformers.modules.layers import WeightedLayerPooling
from mlx_hf_bridge.sentence_transformers.modules.logit_score import LogitScore
from mlx_hf_bridge.sentence_transformers.modules.multi_vector import MultiVectorMask
from mlx_hf_bridge.sentence_transformers.modules.pooling import Pooling
from mlx_hf_bridge.sentence_transformers.modules.router import Router
from mlx_hf_bridge.sentence_transformers.modules.sparse import SparseAutoEncoder, SpladePooling
from mlx_hf_bridge.sentence_transformers.modules.static import SparseStaticEmbedding, StaticEmbedding
from mlx_hf_bridge.sentence_transformers.modules.task_transformer import TaskTransformer
from mlx_hf_bridge.sentence_transformers.modules.token_pooling import HierarchicalTokenPooling
from mlx_hf_bridge.sentence_transformers.modules.transformer import Transformer
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import TransformerSettings, read_settings
from mlx_hf_bridge.sentence_transformers.modules.vectors import Dense, Dropout, LayerNorm, Normalize
from mlx_hf_bridge.sentence_transformers.modules.weights import TORCH_FILE
from mlx_hf_bridge.sentence_transformers.modules.word_layers import CNN, LSTM
from mlx_hf_bridge.sentence_transformers.modules.words import BoW, WordEmbeddings, WordWeights

# By the last part of a type: the dotted names in older and newer checkpoints differ only before it.
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
    "WordEmbeddings": WordEmbeddings.read,
    "BoW": BoW.read,
    "WordWeights": WordWeights.read,
    "CNN": CNN.read,
    "LSTM": LSTM.read,
}
_ROUTERS = ("Router", "Asym")
_LOADED_HERE = (*TRANSFORMER_KINDS, *_ROUTERS, "Dense")
# PyLate's classes are those of sentence-transformers under other names.
_PACKAGES = ("sentence_transformers.", "pylate.")


@dataclass
class ModuleLoader:
    """Loads the modules of one checkpoint.

    Args:
        source: The folder or repository.
        arguments: How modules are loaded.
        defaults: Values for keys that sentence_bert_config.json lacks.
        default_dense_input: What a Dense reads whose configuration does not say: the name of a feature.
    """

    source: Source
    arguments: LoadArguments
    defaults: Mapping[str, Any] = field(default_factory=dict)
    default_dense_input: str = SENTENCE_EMBEDDING
    # The folder that module folders are in: the checkpoint's, then the converted one of its Transformer.
    modules_root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.modules_root = self.source.folder

    def read_config(self) -> dict[str, Any]:
        """Return the checkpoint's config.json.

        Returns:
            Its contents; {} if it is not a JSON object.
        """
        config = read_json(self.source.folder / CONFIG_FILE)
        return config if isinstance(config, dict) else {}

    def read_entries(self) -> tuple[ModuleEntry, ...] | None:
        """Return the entries of modules.json.

        Returns:
            At least one entry, in the file's order; None without the file.

        Raises:
            ConfigError: If the list is empty.
        """
        entries = read_modules(self.source.folder)
        if entries == ():
            raise ConfigError(
                f"{self.source.folder / MODULES_FILE} lists no modules, expected at least one. Take the original file."
            )
        return entries

    def load_modules(self, entries: Sequence[ModuleEntry]) -> list[Module]:
        """Load the modules that modules.json lists.

        Args:
            entries: The entries of modules.json.

        Returns:
            The modules, in their order. UnsupportedModelError is raised for a type that is not implemented here.
        """
        for entry in entries:
            # All of them first, before the weights are downloaded.
            check_module(entry, self.source.folder)
        with naming(self.source):
            return self._load_modules(entries)

    def _load_modules(self, entries: Sequence[ModuleEntry]) -> list[Module]:
        modules: list[Module] = []
        for entry in entries:
            if entry.kind in TRANSFORMER_KINDS:
                transformer = self.load_transformer(self.source, self.source.folder / entry.path, entry.kind)
                # The conversion has copied the other modules' files there.
                self.modules_root = transformer.loaded.folder
                modules.append(transformer)
            else:
                modules.append(self.load_module(entry.path, entry.kind))
        return modules

    def load_module(self, path: str, kind: str) -> Module:
        """Load a module that is not a Transformer.

        Args:
            path: The module's folder in the checkpoint.
            kind: Its type in modules.json, without the package.

        Returns:
            The module.
        """
        folder = self._folder(path)
        with config_errors(folder / CONFIG_FILE):
            if kind in _ROUTERS:
                return Router.read(folder, lambda name, type_: self._routed(path, name, type_))
            if kind == "Dense":
                return Dense.read(folder, self.default_dense_input)
            return READERS[kind](folder)

    def load_transformer(
        self, source: Source, folder: Path, kind: str = "Transformer", settings: TransformerSettings | None = None
    ) -> Transformer:
        """Load a Transformer: an encoder with its tokenizer.

        Args:
            source: The folder or repository of the encoder.
            folder: The folder with its sentence_bert_config.json.
            kind: Its type in modules.json, without the package. Default: "Transformer".
            settings: Its settings. Default: None, those of the folder.

        Returns:
            The module.
        """
        arguments = self.arguments
        if settings is None:
            settings = read_settings(folder, kind, self.defaults)
            arguments = arguments.over(settings.saved_arguments)
            source = _with_selection(source, arguments.given.get("model_kwargs") or {})
        if kind == CLIP_KIND:
            settings = clip_settings(settings)
        settings = replace(settings, max_seq_length=arguments.max_length or settings.max_seq_length)
        loaded = load(
            source,
            settings.head,
            quantization_config=arguments.quantization_config,
            dtype=arguments.dtype,
            options=source.options,
            pooler="pooler_output" in settings.output and arguments.pooler,
            changes=config_changes(source, _config_keys(arguments.config, settings, folder)),
            trace=arguments.trace,
        )
        note_custom_code(source.name, loaded.raw_config, arguments.trust_remote_code)
        if arguments.output_hidden_states is not None:
            config = {**loaded.raw_config, "output_hidden_states": arguments.output_hidden_states}
            loaded = replace(loaded, raw_config=config)
        tokenizer = load_tokenizer(loaded.folder, loaded.family, loaded.raw_config, arguments.tokenizer)
        if "do_lower_case" in arguments.tokenizer:
            set_lowercase(tokenizer, bool(arguments.tokenizer["do_lower_case"]))
        if settings.do_lower_case:
            lowercase_first(tokenizer)
        if kind == CLIP_KIND:
            return CLIPModel(loaded, tokenizer, settings, arguments.overlong)
        return _transformer(loaded, tokenizer, settings, arguments, source)

    def _routed(self, router: str, name: str, type_: str) -> Module:
        """Load a module of a Router; a Transformer there is a complete checkpoint in a subfolder."""
        kind, root = type_.rpartition(".")[2], self.source.folder
        path = relative_path(f"{router}/{name}".strip("/"), root / router)
        check_inside(root / path, root)
        _check_known(kind, type_, str(root / path))
        above = [(root / one).resolve() for one in (PurePosixPath(router), *PurePosixPath(router).parents)]
        # The name "" does that, and links in a circle.
        if kind in _ROUTERS and (root / path).resolve() in above:
            raise ConfigError(
                f"{root / router} is a Router that is a module of itself. Take the original router_config.json."
            )
        if kind not in TRANSFORMER_KINDS:
            return self.load_module(path, kind)
        options = self.source.options
        inner = f"{options.subfolder}/{path}".lstrip("/")
        # Located again, for an identity of its own in the cache.
        source = locate(self.source.name, replace(options, subfolder=inner))
        return replace(self, defaults={}).load_transformer(source, source.folder, kind)

    def _folder(self, path: str) -> Path:
        # Modules before a Transformer, or without one, are still to be downloaded.
        if self.modules_root == self.source.folder:
            self.source.fetch([f"{path}/*"] if path else [SINGLE_FILE])
            if not path and not (self.source.folder / SINGLE_FILE).is_file():
                self.source.fetch([TORCH_FILE])
        return self.modules_root / path


def _transformer(
    loaded: LoadedModel, tokenizer: Tokenizer, settings: TransformerSettings, arguments: LoadArguments, source: Source
) -> Transformer:
    """Return the module of an encoder: one that reads `task` if the encoder has a LoRA for each."""
    if not loaded.family.returns_hidden_state and settings.output[0] == "last_hidden_state":
        raise UnsupportedModelError(
            f"{source.name} is a {loaded.family.model_type}, which has a pooled output and no hidden states to pool; "
            "sentence-transformers does not read it either. Use MLXAutoModel, whose pooler_output is the embedding."
        )
    if tasks_of(loaded):
        return TaskTransformer(loaded, tokenizer, settings, arguments.overlong, arguments.default_task)
    if arguments.default_task is not None:
        raise ArgumentTypeError(
            f"model_kwargs has default_task={arguments.default_task!r}, and {source.name} has no LoRA by task. "
            "Leave it out."
        )
    return Transformer(loaded, tokenizer, settings, arguments.overlong)


def _config_keys(given: Mapping[str, Any], settings: TransformerSettings, folder: Path) -> Mapping[str, Any]:
    """Return the requested keys of config.json; where the file names no classifier, a classifier has one label."""
    if settings.transformer_task != "sequence-classification" or "num_labels" in given:
        return given
    config = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    classes = config.get("architectures") if isinstance(config, dict) else None
    named = isinstance(classes, list) and any(str(name).endswith("ForSequenceClassification") for name in classes)
    return given if named else {"num_labels": 1, **given}


def _with_selection(source: Source, model_kwargs: Mapping[str, Any]) -> Source:
    """Return the source with the weight files that the options choose, located again if they are other ones."""
    chosen: dict[str, Any] = {key: model_kwargs.get(key) for key in ("variant", "use_safetensors")}
    options = replace(source.options, **{key: value for key, value in chosen.items() if value is not None})
    return source if options == source.options else locate(source.name, options)


def check_module(entry: ModuleEntry, folder: Path) -> None:
    """Check that a module of modules.json is implemented here.

    Args:
        entry: The module.
        folder: The repo's folder.

    Raises:
        UnsupportedModelError: If it is not.
    """
    if entry.type != TaskTransformer.reference or not _has_tasks(folder / entry.path):
        _check_known(entry.kind, entry.type, str(folder))


def _has_tasks(folder: Path) -> bool:
    """Whether the encoder in a module's folder has a LoRA for each task, which TaskTransformer reads."""
    config = folder / CONFIG_FILE
    raw = read_json(config) if config.is_file() else {}
    return isinstance(raw, dict) and bool(raw.get(LORA_KEY)) and is_native(raw)


def _check_known(kind: str, type_: str, where: str) -> None:
    if not type_.startswith(_PACKAGES):
        raise UnsupportedModelError(
            f"{where} has the module {type_}, a class that is not part of sentence-transformers, whose code is not run "
            "here. Use sentence-transformers with torch for this model."
        )
    if kind not in READERS and kind not in _LOADED_HERE:
        raise UnsupportedModelError(
            f"{where} has the module {kind} ({type_}), which is not implemented here; known are "
            f"{', '.join(sorted((*READERS, *_LOADED_HERE)))}. Use sentence-transformers with torch for this model."
        )
