"""What sentence_bert_config.json says of a Transformer: task, outputs, lengths and case."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.config import NO_POSITIONS
from mlx_hf_bridge.architecture.family import BASE_TASK, MASKED_LM, SEQUENCE_CLASSIFICATION
from mlx_hf_bridge.checkpoints.checkpoint import MODULES_FILE, read_json
from mlx_hf_bridge.checkpoints.repo_files import TRANSFORMER_FILES, write_json
from mlx_hf_bridge.conversion.tokenizer_files import TOKENIZER_CONFIG_FILE, tokenizer_config
from mlx_hf_bridge.errors import ConfigError, UnsupportedModelError
from mlx_hf_bridge.sentence_transformers.modules.base import SCORES, TOKEN_EMBEDDINGS
from mlx_hf_bridge.sentence_transformers.modules.query_expansion import QueryExpansion

# sentence-transformers' tasks: the head that is loaded, what of its answer is read, and how that is called.
TASKS: dict[str, tuple[str, str, str]] = {
    "feature-extraction": (BASE_TASK, "last_hidden_state", TOKEN_EMBEDDINGS),
    "sequence-classification": (SEQUENCE_CLASSIFICATION, "logits", SCORES),
    "fill-mask": (MASKED_LM, "logits", TOKEN_EMBEDDINGS),
    "text-generation": (BASE_TASK, "logits", "causal_logits"),
}
_LENGTHS = ("max_seq_length", "query_length", "document_length")
_NOT_OF_THE_MODULE = (MODULES_FILE, "config_sentence_transformers.json", *TRANSFORMER_FILES)


@dataclass(frozen=True)
class TransformerSettings:
    """The module's arguments; `output` is the path of the model's answer that is read."""

    transformer_task: str = "feature-extraction"
    module_output_name: str = TOKEN_EMBEDDINGS
    output: tuple[str | int, ...] = ("last_hidden_state",)
    max_seq_length: int | None = None
    do_lower_case: bool = False
    query_length: int | None = None
    document_length: int | None = None
    query_expansion: QueryExpansion | None = None
    processing_kwargs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        """The head that is loaded for the task."""
        return TASKS[self.transformer_task][0]

    @property
    def modality_config(self) -> dict[str, Any]:
        """As sentence-transformers writes it; texts are all that is read here."""
        name: Any = self.output[0] if len(self.output) == 1 else list(self.output)
        return {"text": {"method": "forward", "method_output_name": name}}


def read_settings(folder: Path, kind: str, defaults: Mapping[str, Any]) -> TransformerSettings:
    """sentence_bert_config.json or an older name; `defaults` are for keys that it leaves out."""
    path = next((folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()), None)
    found = read_json(path) if path else {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not a JSON object. Take the original file.")
    config = {**defaults, **found}
    for key in _LENGTHS:
        value = config.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ConfigError(f"{folder} has {key}={value!r}, expected a whole number of 1 or more.")
    return parse_settings(config, "fill-mask" if kind == "MLMTransformer" else "feature-extraction", str(folder))


def parse_settings(config: Mapping[str, Any], usual_task: str, where: str) -> TransformerSettings:
    """The keys of sentence_bert_config.json -> settings; UnsupportedModelError for what is not computed here."""
    task = config.get("transformer_task", usual_task)
    if task not in TASKS:
        raise UnsupportedModelError(
            f"{where} has transformer_task={task!r}; computed here are {', '.join(TASKS)}. "
            "Use sentence-transformers on torch for this model."
        )
    modalities = config.get("modality_config") or {"text": {"method": "forward", "method_output_name": TASKS[task][1]}}
    text = modalities.get("text", {})
    if "message" in modalities or text.get("method") != "forward":
        raise UnsupportedModelError(
            f"{where} reads texts through {'a chat template' if 'message' in modalities else text.get('method')}; "
            "computed here is the model's forward on plain texts. Use sentence-transformers on torch for this model."
        )
    output = text.get("method_output_name") or TASKS[task][1]
    return TransformerSettings(
        transformer_task=task,
        module_output_name=config.get("module_output_name") or TASKS[task][2],
        output=(output,) if isinstance(output, str) else tuple(output),
        max_seq_length=config.get("max_seq_length"),
        do_lower_case=bool(config.get("do_lower_case", False)),
        query_length=config.get("query_length"),
        document_length=config.get("document_length"),
        query_expansion=QueryExpansion.from_dict(config.get("query_expansion")),
        processing_kwargs=config.get("processing_kwargs") or {},
    )


def refuse_chat_template(folder: Path, name: str) -> None:
    """UnsupportedModelError for a plain repo whose texts sentence-transformers would put into a chat template."""
    if (folder / "chat_template.jinja").is_file() or tokenizer_config(folder).get("chat_template"):
        raise UnsupportedModelError(
            f"{name} has no modules.json and a chat template, through which sentence-transformers would read its "
            "texts; that is not done here. Use sentence-transformers on torch, or save it with a Transformer module "
            "whose modality_config has 'text' alone."
        )


def save_transformer(converted: Path, folder: Path, config: dict[str, Any], max_seq_length: int) -> None:
    """The converted folder's own files, and the settings as they are now."""
    for path in converted.iterdir():
        if path.is_file() and path.name not in _NOT_OF_THE_MODULE and path.parent.resolve() != folder.resolve():
            shutil.copyfile(path, folder / path.name)
    write_json(folder / TRANSFORMER_FILES[0], config)
    if (folder / TOKENIZER_CONFIG_FILE).is_file() and max_seq_length < NO_POSITIONS:
        settings = json.loads((folder / TOKENIZER_CONFIG_FILE).read_text(encoding="utf-8"))
        write_json(folder / TOKENIZER_CONFIG_FILE, {**settings, "model_max_length": max_seq_length})
