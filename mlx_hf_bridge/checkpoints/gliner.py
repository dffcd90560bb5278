"""A GLiNER repo read as a checkpoint: gliner_config.json, and its backbones' configs and tokenizers where it has none.

Reference: gliner/model.py of gliner 0.2.29 (from_pretrained).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.gliner import GLINER_FILE, GLINER_KEY, LABELS_KEY, GLiNERConfig
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, METADATA_FILE, Checkpoint, read_checkpoint, read_json
from mlx_hf_bridge.checkpoints.sources import HubOptions, Source, locate
from mlx_hf_bridge.errors import ConfigError, MissingConfigError, RepositoryError

# Where gliner saves the tokenizer of the labels' encoder, and where a converted folder keeps that encoder.
LABELS_TOKENIZER = "labels_tokenizer"
LABELS_FOLDER = "labels_encoder"
# The file by which gliner finds out whether a folder has a tokenizer.
_TOKENIZER_FILE = "tokenizer_config.json"
# The encoder's type where encoder_config names none.
_DEFAULT_TYPE = "deberta-v2"
_ENCODER_KEYS = ("encoder_config", "labels_encoder_config")


def read_gliner(source: Source) -> tuple[Checkpoint, Checkpoint | None]:
    """Read a GLiNER repo or folder, converted or not.

    Args:
        source: Where it is.

    Returns:
        The model with its text encoder, and the encoder of labels or None.

    Raises:
        MissingConfigError: If there is no gliner_config.json.
        ConfigError: If a config is not valid.
        RepositoryError: If a backbone is needed and not found.
        UnsupportedModelError: If the model is of a kind that is not computed here.
    """
    if (source.folder / METADATA_FILE).is_file():
        return _read_converted(source)
    path = source.folder / GLINER_FILE
    if not path.is_file():
        raise MissingConfigError(f"{source.name} has no {GLINER_FILE}. Give the folder or repo of a GLiNER model.")
    raw = read_json(path)
    config = GLiNERConfig.from_json(raw)
    text = _part(source, raw, "encoder_config", config.model_name, source.folder)
    if config.vocab_size != -1 and raw.get("encoder_config") is None:
        text.config["vocab_size"] = config.vocab_size
    own = {key: value for key, value in raw.items() if key not in _ENCODER_KEYS}
    if config.labels_encoder is None:
        return _with_config(text, {GLINER_KEY: own}), None
    labels = _part(source, raw, "labels_encoder_config", config.labels_encoder, source.folder / LABELS_TOKENIZER)
    own["labels_encoder_config"] = dict(labels.config)
    return _with_config(text, {GLINER_KEY: own}), _with_config(labels, {LABELS_KEY: True})


def _read_converted(source: Source) -> tuple[Checkpoint, Checkpoint | None]:
    text = read_checkpoint(source)
    if GLINER_KEY not in text.config:
        raise MissingConfigError(f"{source.name} is no GLiNER model. Load it with the class that converted it.")
    folder = source.folder / LABELS_FOLDER
    return text, read_checkpoint(locate(folder, HubOptions())) if folder.is_dir() else None


def _with_config(checkpoint: Checkpoint, added: dict[str, Any]) -> Checkpoint:
    identity = {**checkpoint.source.identity, "part": next(iter(added))}
    config = {**checkpoint.config, **added, "architectures": ["GLiNER"]}
    return replace(checkpoint, config=config, source=replace(checkpoint.source, identity=identity))


def _part(source: Source, raw: Any, key: str, backbone_name: str, tokenizer_folder: Path) -> Checkpoint:
    """Return one encoder of a repo, with its config, and with the backbone's where the repo lacks it."""
    config = raw.get(key)
    if config is not None and not isinstance(config, dict):
        raise ConfigError(f"{GLINER_FILE} has a {key} that is not a JSON object. Take the original file.")
    has_tokenizer = (tokenizer_folder / _TOKENIZER_FILE).is_file()
    backbone = None if config is not None and has_tokenizer else _locate_backbone(source, backbone_name, key)
    if backbone is not None:
        source = replace(source, identity={**source.identity, "backbone": backbone.identity})
    if config is None:
        assert backbone is not None
        config = read_checkpoint(backbone).config
    config = {"model_type": _DEFAULT_TYPE, **config}
    if has_tokenizer or backbone is None:
        tokenizer = Checkpoint(source, source.folder, tokenizer_folder, config, None)
    else:
        # Of a backbone without a config.json the tokenizer is read all the same.
        has_config = (backbone.folder / CONFIG_FILE).is_file()
        tokenizer = read_checkpoint(backbone, needs_config=False)
        tokenizer = tokenizer if has_config else replace(tokenizer, config=config)
    return Checkpoint(source, source.folder, source.folder, dict(config), None, tokenizer=tokenizer)


def _locate_backbone(source: Source, name: str, key: str) -> Source:
    """Return where a backbone is that a repo refers to by its name."""
    options = replace(source.options, revision=None, subfolder="", variant=None, use_safetensors=None)
    try:
        return locate(name, options)
    except RepositoryError as error:
        raise RepositoryError(
            f"{source.name} lacks {key} in its {GLINER_FILE}, or a tokenizer, so those of its backbone "
            f"{name!r:.200} are needed: {error}"
        ) from error
