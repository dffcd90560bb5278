"""The settings of a Transformer module, sentence_bert_config.json: task, outputs, lengths and lower-casing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import BASE_TASK, CAUSAL_LM, MASKED_LM, SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, MODULES_FILE, read_json
from mlx_hf_bridge.checkpoints.paths import copy_file
from mlx_hf_bridge.checkpoints.repo_files import TRANSFORMER_FILES, write_json
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.inference.tokenizer import Tokenizer
from mlx_hf_bridge.loading.load import LoadedModel
from mlx_hf_bridge.runtime.file_errors import config_errors
from mlx_hf_bridge.sentence_transformers.modules.base import SCORES, TOKEN_EMBEDDINGS
from mlx_hf_bridge.sentence_transformers.modules.messages import AUTO, FLAT, STRUCTURED
from mlx_hf_bridge.sentence_transformers.modules.query_expansion import QueryExpansion

# sentence-transformers' tasks: the head that is loaded, the output that is read, and its name among the features.
TASKS: dict[str, tuple[str, str, str]] = {
    "feature-extraction": (BASE_TASK, "last_hidden_state", TOKEN_EMBEDDINGS),
    "sequence-classification": (SEQUENCE_CLASSIFICATION, "logits", SCORES),
    "fill-mask": (MASKED_LM, "logits", TOKEN_EMBEDDINGS),
    "text-generation": (CAUSAL_LM, "logits", "causal_logits"),
}
# The message format of checkpoints without modules.json: that of the tokenizer's chat template, if it has one.
INFER = "infer"
_LENGTHS = ("max_seq_length", "query_length", "document_length")
# The other keys of sentence_bert_config.json: arguments of sentence-transformers' Transformer.
_KEYS = (
    *("transformer_task", "modality_config", "module_output_name", "processing_kwargs", "query_expansion"),
    *("do_lower_case", "unpad_inputs", "backend", "tokenizer_name_or_path"),
)
_ARGUMENTS = ("model_kwargs", "processor_kwargs", "config_kwargs", "model_args", "tokenizer_args", "config_args")
_NOT_OF_THE_MODULE = (MODULES_FILE, "config_sentence_transformers.json", *TRANSFORMER_FILES)


@dataclass(frozen=True)
class TransformerSettings:
    """The settings of a Transformer module.

    Args:
        transformer_task: A key of `TASKS`: which head is loaded, and which output is read.
        module_output_name: The name of the result among the features.
        output: The path of the model output that is read, for example ("hidden_states", -2).
        message_format: How texts are put into a chat template: "flat", "structured" or "auto" as the template reads
            them; "infer" for "auto" if the tokenizer has one. None for plain texts.
        max_seq_length: The most tokens of a text; None for the tokenizer's or the model's limit.
        do_lower_case: Whether texts are lower-cased before they are tokenized.
        query_length: The most tokens of a query; None for `max_seq_length`.
        document_length: The most tokens of a document; None for `max_seq_length`.
        query_expansion: ColBERT's query expansion; None for none.
        processing_kwargs: Tokenizer arguments by group ("common", "text").
        saved_arguments: Arguments of the constructor that the file has: model_kwargs and the like.
    """

    transformer_task: str = "feature-extraction"
    module_output_name: str = TOKEN_EMBEDDINGS
    output: tuple[str | int, ...] = ("last_hidden_state",)
    message_format: str | None = None
    max_seq_length: int | None = None
    do_lower_case: bool = False
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: QueryExpansion | None = None
    processing_kwargs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    saved_arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """The task of this package whose head is loaded."""
        return TASKS[self.transformer_task][0]

    def modality_config(self, message_format: str | None) -> dict[str, Any]:
        """Return the modalities as sentence-transformers writes them; texts are the only one here.

        Args:
            message_format: How texts are put into a chat template; None for plain texts.

        Returns:
            The entry of texts, and that of messages with a chat template.
        """
        name: Any = self.output[0] if len(self.output) == 1 else list(self.output)
        text = {"method": "forward", "method_output_name": name}
        return {"text": text} | ({"message": {**text, "format": message_format}} if message_format else {})


def read_settings(folder: Path, kind: str, defaults: Mapping[str, Any]) -> TransformerSettings:
    """Read sentence_bert_config.json, or the file under one of its older names.

    Args:
        folder: The folder that may hold the file; without one, the defaults are used.
        kind: The class name in modules.json; "MLMTransformer" reads masked-language-model logits.
        defaults: Values for keys that the file does not have.

    Returns:
        The settings.

    Raises:
        ConfigError: If the file is not a JSON object, or a length is not a positive integer.
    """
    path, found = _first_settings(folder)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the original file.")
    _check_keys(found, path)
    config = {**defaults, **found}
    for key in _LENGTHS:
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(
                f"{folder} has {key}={value!r}, expected an integer of 1 or more. Take the original file."
            )
    with config_errors(path):
        settings = parse_settings(
            config, "fill-mask" if kind == "MLMTransformer" else "feature-extraction", str(folder)
        )
    return replace(settings, saved_arguments={key: found[key] for key in _ARGUMENTS if key in found})


def _first_settings(folder: Path) -> tuple[Path, Any]:
    """Return the first of the files that is not empty, as sentence-transformers does, and its content."""
    for path in (folder / name for name in TRANSFORMER_FILES):
        if path.is_file() and (found := read_json(path)):
            return path, found
    return folder / TRANSFORMER_FILES[0], {}


def _check_keys(found: Mapping[str, Any], path: Path) -> None:
    if found.get("tokenizer_name_or_path") is not None:
        raise UnsupportedModelError(
            f"{path} has tokenizer_name_or_path={found['tokenizer_name_or_path']!r}, another repo's tokenizer, which "
            "is not read here. Copy its files next to config.json, and remove the key."
        )
    if unknown := sorted(set(found) - {*_LENGTHS, *_KEYS, *_ARGUMENTS}):
        raise ConfigError(
            f"{path} has {', '.join(unknown)}, which is not an argument of sentence-transformers' Transformer. "
            "Take the original file."
        )
    if wrong := [key for key in _ARGUMENTS if not isinstance(found.get(key) or {}, dict)]:
        raise ConfigError(f"{path} has {wrong[0]}={found[wrong[0]]!r}, expected an object. Take the original file.")


def parse_settings(config: Mapping[str, Any], default_task: str, where: str) -> TransformerSettings:
    """Convert the keys of sentence_bert_config.json into settings.

    Args:
        config: The content of the file.
        default_task: The task where the file names none.
        where: What holds the config, named in errors; usually a folder.

    Returns:
        The settings.

    Raises:
        UnsupportedModelError: If the task or the way that texts are read is not computed here.
        ConfigError: If processing_kwargs is not a dict of dicts.
    """
    task = config.get("transformer_task", default_task)
    if task not in TASKS:
        raise UnsupportedModelError(
            f"{where} has transformer_task={task!r}; supported are {', '.join(TASKS)}. "
            "Use sentence-transformers on torch for this model."
        )
    modalities = config.get("modality_config") or {"text": {"method": "forward", "method_output_name": TASKS[task][1]}}
    # With a chat template every text is a message.
    text, message_format = modalities.get("message", modalities.get("text", {})), None
    if text.get("method") != "forward":
        raise UnsupportedModelError(
            f"{where} reads texts through {text.get('method')}; supported is the model's forward. "
            "Use sentence-transformers on torch for this model."
        )
    if "message" in modalities:
        message_format = text.get("format", AUTO)
        if message_format not in (FLAT, STRUCTURED, AUTO):
            raise ConfigError(f"{where} has message format {message_format!r}, expected {FLAT!r} or {STRUCTURED!r}.")
    name = config.get("module_output_name") or TASKS[task][2]
    if not isinstance(name, str):
        raise ConfigError(f"{where} has module_output_name={name!r:.80}, expected a text. Take the original file.")
    output, kwargs = text.get("method_output_name") or TASKS[task][1], config.get("processing_kwargs") or {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(group, Mapping) for group in kwargs.values()):
        raise ConfigError(
            f"{where} has processing_kwargs={kwargs!r:.80}, expected options by group and name. Take the original file."
        )
    return TransformerSettings(
        transformer_task=task,
        module_output_name=name,
        output=(output,) if isinstance(output, str) else tuple(output),
        message_format=message_format,
        max_seq_length=config.get("max_seq_length"),
        do_lower_case=bool(config.get("do_lower_case", False)),
        query_length=config.get("query_length"),
        document_length=config.get("document_length"),
        query_expansion=QueryExpansion.from_dict(config.get("query_expansion")),
        processing_kwargs=kwargs,
    )


def default_settings(task: str, where: str) -> TransformerSettings:
    """Return the settings of a checkpoint without modules.json.

    Args:
        task: A key of `TASKS`.
        where: The folder, named in errors.

    Returns:
        The settings; texts are put into the tokenizer's chat template if it has one.
    """
    return replace(parse_settings({}, task, where), message_format=INFER)


def save_transformer(loaded: LoadedModel, tokenizer: Tokenizer, folder: Path, config: Mapping[str, Any]) -> None:
    """Write the converted model's own files into a folder, with its current config, tokenizer and settings.

    Args:
        loaded: The model, whose converted folder is copied.
        tokenizer: The tokenizer, which may have changed since it was read.
        folder: The folder to write; it may be the converted one.
        config: The content of sentence_bert_config.json.
    """
    for path in loaded.folder.iterdir():
        is_other = path.name not in _NOT_OF_THE_MODULE and path.parent.resolve() != folder.resolve()
        if is_other and not path.is_dir():
            copy_file(path, folder / path.name, loaded.folder)
    # raw_config has what the constructor changed, such as output_hidden_states.
    write_json(folder / CONFIG_FILE, {**read_json(loaded.folder / CONFIG_FILE), **loaded.raw_config})
    write_json(folder / TRANSFORMER_FILES[0], dict(config))
    tokenizer.save(folder)
