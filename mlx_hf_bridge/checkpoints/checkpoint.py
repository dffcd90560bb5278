"""A checkpoint's folder: the model's config, its weight files, and the modules of sentence-transformers."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.remote_code import with_model_type
from mlx_hf_bridge.checkpoints.adapter import ADAPTER_FILE, Adapter, is_adapter, read_adapter
from mlx_hf_bridge.checkpoints.damaged import refuse_pointer
from mlx_hf_bridge.checkpoints.other_formats import other_formats_advice
from mlx_hf_bridge.checkpoints.paths import check_inside, relative_path
from mlx_hf_bridge.checkpoints.plain_files import has_file
from mlx_hf_bridge.checkpoints.safetensors_file import INDEX_FILE, SINGLE_FILE, SafetensorsFile, WeightFile, shards
from mlx_hf_bridge.checkpoints.sources import Source, locate
from mlx_hf_bridge.checkpoints.torch_file import TorchFile
from mlx_hf_bridge.errors import (
    CheckpointError,
    ConfigError,
    MissingConfigError,
    RepositoryError,
    UnsupportedModelError,
)

CONFIG_FILE = "config.json"
MODULES_FILE = "modules.json"
# Models have a handful.
_MOST_MODULES = 1000
METADATA_FILE = "conversion_metadata.json"
VERIFICATION_FILE = "verification.json"
_TORCH_FILE = "pytorch_model.bin"
_TORCH_INDEX = "pytorch_model.bin.index.json"
NPZ_FILE = "weights.npz"
# Names in modules.json of the module that holds the transformers model; the second is an older one for masked LMs,
# and of CLIP the text side is read.
CLIP_KIND = "CLIPModel"
TRANSFORMER_KINDS = ("Transformer", "MLMTransformer", CLIP_KIND)


@dataclass(frozen=True)
class ModuleEntry:
    """One entry of modules.json.

    Attributes:
        path: The module's folder within the repo; "" for the root.
        kind: The last part of its class name ("Pooling").
        type: Its class name as written in the file.
    """

    path: str
    kind: str
    type: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A model's files on disk.

    Attributes:
        source: Where the repo was located.
        folder: The repo's folder.
        model_folder: The folder with config.json and the weights, `folder` or one within it.
        config: The content of config.json.
        modules: The entries of modules.json; None for a repo without one.
        adapter: A LoRA adapter to merge; None for none.
        tokenizer: Where the tokenizer is, if it is neither in the model's folder nor in the adapter's.
    """

    source: Source
    folder: Path
    model_folder: Path
    config: dict[str, Any]
    modules: tuple[ModuleEntry, ...] | None
    adapter: Adapter | None = None
    tokenizer: "Checkpoint | None" = None

    @property
    def is_converted(self) -> bool:
        """Whether the weights are in MLX's quantized format, or the folder was written by this package."""
        return (self.folder / METADATA_FILE).is_file() or "quantization" in self.config


def read_json(path: Path) -> Any:
    """Return a JSON file's content.

    Args:
        path: The file.

    Returns:
        The content.

    Raises:
        RepositoryError: If it is missing.
        ConfigError: If it is not JSON.
        CheckpointError: If it is a pointer of git-lfs, or empty.
    """
    try:
        # A pipe or device, which a link may lead to, has no end.
        if path.exists() and not path.is_file():
            raise RepositoryError(f"{path} is not a plain file. Take the file of the original checkpoint.")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RepositoryError(f"{path.parent} has no {path.name}. Give the folder or repo of a model.") from error
    except (ValueError, RecursionError) as error:
        refuse_pointer(path)
        raise ConfigError(
            f"{path} is not JSON or is truncated ({error}). Take the file of the original checkpoint."
        ) from error


def read_modules(folder: Path) -> tuple[ModuleEntry, ...] | None:
    """Return the entries of modules.json in the file's order, None without it.

    Args:
        folder: The repo's folder.

    Returns:
        The entries.

    Raises:
        ConfigError: If the file is not valid, or gives a path outside the folder.
        RepositoryError: If the file is no plain file, or a module's folder a link that leads outside.
    """
    path = folder / MODULES_FILE
    if not has_file(path, folder):
        return None
    content = read_json(path)
    if isinstance(content, list) and len(content) > _MOST_MODULES:
        raise ConfigError(
            f"{path} lists {len(content)} modules, expected {_MOST_MODULES} at most. Take the original file."
        )
    try:
        if not isinstance(content, list):
            raise TypeError(type(content).__name__)
        # By name, as in sentence-transformers: of two entries with one name the first has the place, the last the rest.
        # It does not read idx.
        named = {str(entry.get("name", index)): entry for index, entry in enumerate(content)}
        entries = tuple(
            ModuleEntry(relative_path(entry.get("path", ""), path), entry["type"].rsplit(".", 1)[-1], entry["type"])
            for entry in named.values()
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not a list of modules with name, path and type ({error!r}). Take the original file."
        ) from error
    for entry in entries:
        check_inside(folder / entry.path, folder)
    return entries


def read_checkpoint(source: Source, needs_config: bool = True, adapter: Source | None = None) -> Checkpoint:
    """Read the config and modules of a folder.

    A folder that is an adapter is read as its base model with the adapter.

    Args:
        source: Where the folder is.
        needs_config: Whether config.json must be there; without it the config is {}.
        adapter: Where an adapter is that is in another folder, or None.

    Returns:
        The checkpoint.

    Raises:
        RepositoryError: If a file is missing.
        ConfigError: If a file is not valid.
        UnsupportedModelError: If an adapter's base model is an adapter too.
    """
    folder = source.folder
    modules = read_modules(folder)
    entry = next((entry for entry in modules or () if entry.kind in TRANSFORMER_KINDS), None)
    path = "" if entry is None else entry.path
    # Old sentence-transformers repos keep the transformers model in a subfolder such as 0_Transformer.
    model_folder = folder if (folder / CONFIG_FILE).is_file() and not path else folder / path
    has_config = (model_folder / CONFIG_FILE).is_file()
    if adapter is None and model_folder == folder and is_adapter(folder):
        adapter = source
    if adapter is None or has_config or adapter.folder != folder:
        config = _read_config(source, model_folder / CONFIG_FILE, needs_config)
        if entry is not None and entry.kind == CLIP_KIND:
            config = _text_side(config, model_folder / CONFIG_FILE)
        plain = Checkpoint(source, folder, model_folder, config, modules)
        return plain if adapter is None else _with_adapter(plain, _adapter_in(adapter))
    found = _adapter_in(adapter)
    # The revision and subfolder that the caller gave are the adapter's.
    options = replace(source.options, revision=found.base_revision, subfolder="")
    base = locate(found.base, options)
    # Before the base is read: two adapters may name each other.
    if is_adapter(base.folder) and not (base.folder / CONFIG_FILE).is_file():
        raise _adapter_of_an_adapter(found, base.name)
    return _with_adapter(read_checkpoint(base, needs_config), found)


def _text_side(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the config of a CLIP model's text encoder, with the size of its projection."""
    if config.get("model_type") != "clip":
        return config
    text = config.get("text_config")
    if not isinstance(text, dict):
        raise ConfigError(f"{path} has text_config={text!r:.80}, expected an object. Take the original file.")
    size = {"projection_dim": config["projection_dim"]} if "projection_dim" in config else {}
    dtypes = {key: config[key] for key in ("dtype", "torch_dtype") if key in config}
    own = {"model_type": "clip_text_model", "architectures": ["CLIPTextModelWithProjection"]}
    return {**text, **size, **dtypes, **own}


def _adapter_in(source: Source) -> Adapter:
    return read_adapter(source, read_json(source.folder / ADAPTER_FILE))


def _with_adapter(base: Checkpoint, adapter: Adapter) -> Checkpoint:
    """Return the base model with the adapter; the cache key has both, so it is converted even if the base was."""
    if base.adapter is not None:
        raise _adapter_of_an_adapter(adapter, base.source.name)
    identity = {"base": base.source.identity, "adapter": adapter.source.identity}
    return replace(base, source=replace(base.source, identity=identity), adapter=adapter)


def _adapter_of_an_adapter(adapter: Adapter, base: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{adapter.source.name} is an adapter for {base}, which is an adapter too. Merge the latter with peft."
    )


def modules_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint that has the tokenizer and modules: an adapter's own files, or else the model's."""
    if checkpoint.adapter is None:
        return checkpoint
    source = checkpoint.adapter.source
    folder = source.folder
    return Checkpoint(source, folder, folder, checkpoint.config, read_modules(folder))


def _read_config(source: Source, path: Path, needed: bool) -> dict[str, Any]:
    if not path.is_file():
        if needed:
            advice = other_formats_advice(source, path.parent) or "Give the folder or repo of a model."
            raise MissingConfigError(f"{path.parent} has no {path.name}. {advice}")
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the original file.")
    if not isinstance(name := config.get("model_type", ""), str):
        raise ConfigError(f"{path} has model_type={name!r}, expected a string such as 'bert'. Take the original file.")
    return with_model_type(config)


def open_weight_files(checkpoint: Checkpoint) -> list[WeightFile]:
    """Open the model's weight files and read their headers, in transformers' order of preference.

    That is the file named by config.json's transformers_weights, or else model.safetensors, its shards,
    pytorch_model.bin and its shards, each of the requested variant.

    Args:
        checkpoint: The model; files that are still on the Hub are downloaded.

    Returns:
        The open files.

    Raises:
        RepositoryError: If there is no weight file.
        CheckpointError: If a shard is missing, or a file is broken.
        ConfigError: If transformers_weights is not the name of a safetensors file.
    """
    candidates = weight_file_names(checkpoint)
    for name in candidates:
        if not name.endswith(".json"):
            _fetch(checkpoint, [name])
        path = checkpoint.model_folder / name
        # "in" and not "endswith": an index ends in ".bin.index.json".
        opened = TorchFile if ".bin" in name else SafetensorsFile
        if path.is_file() and name.endswith(".json"):
            paths = shards(path)
            # Weights are downloaded only here, so that one of several formats is fetched and not all.
            _fetch(checkpoint, [shard.relative_to(checkpoint.model_folder).as_posix() for shard in paths])
            _require(paths, name)
            return [opened(shard) for shard in paths]
        if path.is_file():
            return [opened(path)]
    raise RepositoryError(
        f"{checkpoint.model_folder} has none of {', '.join(candidates)}. {_remedy(checkpoint, candidates)}"
    )


def weight_file_names(checkpoint: Checkpoint) -> list[str]:
    """Return the names that weight files may have, best first.

    Reference: transformers/modeling_utils.py, _get_resolved_checkpoint_files.

    Args:
        checkpoint: The model; its options choose a variant, and its config may name the file.

    Returns:
        Names of files and of indexes of shards, in the model's folder.

    Raises:
        ConfigError: If transformers_weights is not the name of a safetensors file.
    """
    options = checkpoint.source.options
    if named := checkpoint.config.get("transformers_weights"):
        if (
            not isinstance(named, str)
            or not named.endswith((".safetensors", ".safetensors.index.json"))
            or "/" in named
            or relative_path(named, CONFIG_FILE) != named
        ):
            raise ConfigError(
                f"config.json has transformers_weights={named!r}, expected the name of a .safetensors file, or of the "
                "index of its shards, in the same folder. Take the file of the original checkpoint."
            )
        return [named]
    safe, torch = [SINGLE_FILE, INDEX_FILE], [_TORCH_FILE, _TORCH_INDEX]
    names = {None: safe + torch, True: safe, False: torch}[options.use_safetensors]
    return [add_variant(name, options.variant) for name in names]


def add_variant(name: str, variant: str | None) -> str:
    """Return a weight file's name with the variant in it: "model.safetensors", "fp16" -> "model.fp16.safetensors"."""
    stem, _, kind = name.rpartition(".")
    return f"{stem}.{variant}.{kind}" if variant else name


def _fetch(checkpoint: Checkpoint, names: list[str]) -> None:
    inside = checkpoint.model_folder.relative_to(checkpoint.folder)
    checkpoint.source.fetch([(inside / name).as_posix() for name in names])


def _remedy(checkpoint: Checkpoint, tried: list[str]) -> str:
    folder, chosen = checkpoint.model_folder, checkpoint.source.options.weight_selection
    others = [name for name in (SINGLE_FILE, INDEX_FILE, _TORCH_FILE, _TORCH_INDEX) if name not in tried]
    if there := [name for name in others if (folder / name).is_file()]:
        return f"It has {', '.join(there)}: omit {' and '.join(chosen) or 'transformers_weights'} to load that."
    if (folder / NPZ_FILE).is_file():
        return f"Its {NPZ_FILE} is another tool's float32 output; convert the original checkpoint."
    return other_formats_advice(checkpoint.source, folder) or "Give a folder or repo with weights."


def _require(paths: list[Path], index: str) -> None:
    if missing := [path.name for path in paths if not path.is_file()]:
        raise CheckpointError(f"{paths[0].parent / index} names {missing}, which are not there. Download them again.")
