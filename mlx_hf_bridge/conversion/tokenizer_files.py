"""The tokenizer that transformers would use, written as tokenizer.json, whatever vocabulary files the checkpoint has.

Transformers 5 rebuilds many tokenizers from their vocabulary and ignores the rest of tokenizer.json, so the rebuilt one
is written. AutoTokenizer itself is not used: where torch is installed it imports torch.
"""

import importlib
import logging
import shutil
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, read_json
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.conversion.esm_tokenizer import PYTHON_CLASS, as_fast
from mlx_hf_bridge.errors import RepositoryError, UnsupportedModelError

TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
_VOCABULARIES = (TOKENIZER_FILE, "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model")
# Keys that save_pretrained adds about how the tokenizer was loaded.
_NOT_SETTINGS = ("is_local", "local_files_only")
_GENERIC = ("TokenizersBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "PythonBackend")


def tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return the content of tokenizer_config.json, {} if there is none."""
    path = folder / TOKENIZER_CONFIG_FILE
    return read_json(path) if path.is_file() else {}


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has vocabulary files of any known form."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def tokenizer_class_name(checkpoint: Checkpoint, family: Family) -> str:
    """Return the name of the class that AutoTokenizer would choose.

    It is the class that tokenizer_config.json or config.json names, the generic fast class where they name a generic
    one, and the family's where they name none (transformers/models/auto/tokenization_auto.py, from_pretrained).
    """
    declared = tokenizer_config(checkpoint.model_folder).get("tokenizer_class") or checkpoint.config.get(
        "tokenizer_class"
    )
    if not declared:
        return family.tokenizer
    # transformers 5 has one class for both, under the name without "Fast".
    declared = declared.removesuffix("Fast") if declared not in _GENERIC else declared
    return "PreTrainedTokenizerFast" if declared in _GENERIC else declared


def build_tokenizer(checkpoint: Checkpoint, family: Family) -> Any:
    """Load the checkpoint's tokenizer with transformers.

    Args:
        checkpoint: The checkpoint.
        family: Its family, whose tokenizer class is the default.

    Returns:
        transformers' fast tokenizer object.

    Raises:
        RepositoryError: If vocabulary files are missing or cannot be read.
        UnsupportedModelError: If the tokenizer exists in Python only.
    """
    if not has_tokenizer(checkpoint.model_folder):
        raise RepositoryError(
            f"{checkpoint.model_folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}. Copy the files of the "
            "original checkpoint there."
        )
    transformers = import_transformers()
    name = tokenizer_class_name(checkpoint, family)
    tokenizer_class = getattr(transformers, name, None) or transformers.PreTrainedTokenizerFast
    try:
        tokenizer = tokenizer_class.from_pretrained(str(checkpoint.model_folder), local_files_only=True)
    except Exception as error:  # KeyError, TypeError, and the bare class from tokenizers, all for broken files
        raise RepositoryError(
            f"{checkpoint.model_folder} has no tokenizer that {name} can read ({error}). Copy tokenizer.json, "
            "vocab.txt, vocab.json with merges.txt, or the SentencePiece model of the original checkpoint there."
        ) from error
    if name == PYTHON_CLASS:
        tokenizer = as_fast(tokenizer)
    if not getattr(tokenizer, "is_fast", False):
        raise UnsupportedModelError(
            f"{checkpoint.model_folder} has a tokenizer of class {name}, which is written in Python and has no "
            "tokenizer.json form. Use transformers on torch for this model."
        )
    return tokenizer


def import_transformers() -> Any:
    """Import transformers without its warning that torch is not installed; only its tokenizers are needed here."""
    before = logging.root.manager.disable
    # logging.disable works before transformers' own loggers exist.
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module("transformers")
    finally:
        logging.disable(before)


def write_tokenizer(checkpoint: Checkpoint, family: Family, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json; nothing for a checkpoint without vocabulary files."""
    if not has_tokenizer(checkpoint.model_folder):
        return
    tokenizer = build_tokenizer(checkpoint, family)
    tokenizer.save_pretrained(str(folder))
    # The class knows its inputs and does not save them; programs that read the folder without the class need them.
    saved = {key: value for key, value in tokenizer_config(folder).items() if key not in _NOT_SETTINGS}
    write_json(folder / TOKENIZER_CONFIG_FILE, {**saved, "model_input_names": list(tokenizer.model_input_names)})
    special = checkpoint.model_folder / "special_tokens_map.json"
    if special.is_file():
        shutil.copyfile(special, folder / special.name)
