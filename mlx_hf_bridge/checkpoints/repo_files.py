"""Write the files of a converted folder other than weights: config.json and sentence-transformers' modules."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, MODULES_FILE, TRANSFORMER_KINDS, Checkpoint
from mlx_hf_bridge.checkpoints.paths import copy_file, copy_folder
from mlx_hf_bridge.checkpoints.safetensors_file import dtype_name

# Files of sentence-transformers' Transformer module, read from that module's folder.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_ROOT_FILES = ("config_sentence_transformers.json",)
# Keys of config.json that describe MLX's packing, in mlx-lm's form; transformers reads the second as its own quantizer.
PACKING_KEYS = ("quantization", "quantization_config")
# Keys of config.json about how weights are stored, which a conversion decides.
STORAGE_KEYS = ("dtype", "torch_dtype", *PACKING_KEYS, "transformers_weights")
# Keys written by transformers that do not apply to a converted folder.
_DROPPED_KEYS = ("_name_or_path", "transformers_version", *STORAGE_KEYS)


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write content as indented JSON in UTF-8, with a newline at the end."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only escape
        text = json.dumps(content, indent=indent)
    path.write_text(text + "\n", encoding="utf-8")


def write_config(
    checkpoint: Checkpoint,
    folder: Path,
    dtype: mx.Dtype,
    packing: Mapping[str, Any],
    architecture: str,
) -> None:
    """Write config.json as the source has it, with the new dtype and quantization.

    Args:
        checkpoint: The source.
        folder: The converted folder.
        dtype: The dtype of the float tensors.
        packing: MLX's quantization parameters, written under both keys that mlx-lm uses; {} for none.
        architecture: The transformers class, for a config.json without `architectures`.
    """
    config = {key: value for key, value in checkpoint.config.items() if key not in _DROPPED_KEYS}
    config.setdefault("architectures", [architecture])
    config["dtype"] = dtype_name(dtype)
    if packing:
        # mlx-lm writes both keys, and tools read one or the other.
        config |= {"quantization": packing, "quantization_config": packing}
    write_json(folder / CONFIG_FILE, config)


def copy_modules(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the files of sentence-transformers; the Transformer module moves to the folder's root.

    Args:
        checkpoint: The source.
        folder: The converted folder.
    """
    for name in TRANSFORMER_FILES:
        copy_file(checkpoint.model_folder / name, folder / name, checkpoint.folder)
    for name in _ROOT_FILES:
        copy_file(checkpoint.folder / name, folder / name, checkpoint.folder)
    if checkpoint.modules is None:
        return
    entries = []
    for index, module in enumerate(checkpoint.modules):
        # The converted model's files are all at the root.
        path = "" if module.kind in TRANSFORMER_KINDS else module.path
        entries.append({"idx": index, "name": str(index), "path": path, "type": module.type})
        if path:
            _copy_module(checkpoint, path, folder)
    write_json(folder / MODULES_FILE, entries)


def _copy_module(checkpoint: Checkpoint, path: str, folder: Path) -> None:
    checkpoint.source.fetch([f"{path}/*"])
    (folder / path).mkdir(parents=True, exist_ok=True)
    source = checkpoint.folder / path
    if source.is_dir():
        copy_folder(source, folder / path, checkpoint.folder)
