"""The tokenizer that transformers would use, written as tokenizer.json, whatever vocabulary files the checkpoint has.

Transformers 5 rebuilds many tokenizers from their vocabulary and ignores the rest of tokenizer.json, so the rebuilt one
is written. AutoTokenizer itself is not used: where torch is installed it imports torch.
"""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.checkpoint import Checkpoint, read_json
from mlx_hf_bridge.checkpoints.damaged import refuse_cut_json, refuse_pointer
from mlx_hf_bridge.checkpoints.paths import check_inside, copy_file, relative_path
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.esm_tokenizer import PYTHON_CLASS, as_fast
from mlx_hf_bridge.conversion.token_ids import check_token_ids
from mlx_hf_bridge.conversion.tokenizer_class import (
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
    tokenizer_class_name,
    tokenizer_config,
)
from mlx_hf_bridge.errors import (
    BackendError,
    BridgeError,
    CheckpointError,
    ConfigError,
    RepositoryError,
    UnsupportedModelError,
)
from mlx_hf_bridge.inference.python_tokenizer import PythonBackend
from mlx_hf_bridge.inference.template_files import TEMPLATE_FILE, TEMPLATE_FOLDER, read_templates
from mlx_hf_bridge.inference.tokenizer import TOKEN_TYPE_IDS, Tokenizer
from mlx_hf_bridge.runtime.file_errors import panics_as_exceptions
from mlx_hf_bridge.runtime.quiet import no_logging

logger = logging.getLogger(__name__)

_SENTENCEPIECE = (
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
    "sentencepiece.model",
    "tokenizer.model",
    "spm_char.model",
    "source.spm",
)
_VOCABULARIES = (TOKENIZER_FILE, "vocab.txt", "vocab.json", "byte_maps.json", "prophetnet.tokenizer", *_SENTENCEPIECE)
# Classes whose tokens are bytes or characters.
_WITHOUT_VOCABULARY = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")
# What the classes of transformers read beside their vocabulary.
_COMPANIONS = (
    TOKENIZER_CONFIG_FILE,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "dict.txt",
    "target.spm",
    "target_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
)
# Key of tokenizer_config.json: the files are the checkpoint's own, so its class has to read them, and not tokenizers.
_COPIED = "mlx_hf_bridge_copied"
# Our extras, and the packages in them as the errors of transformers' classes name them.
_EXTRAS = {
    "japanese": ("fugashi", "ipadic", "unidic_lite"),
    "sudachi": ("sudachipy", "sudachidict"),
    "xlm": ("sacremoses",),
    "chinese": ("rjieba",),
    "tables": ("pandas",),
}
_INPUTS = ("input_ids", TOKEN_TYPE_IDS, "attention_mask")
_BY_IDS = "Tokenize with transformers.AutoTokenizer, and call MLXAutoModel with what it returns."
# Keys that save_pretrained adds about how the tokenizer was loaded.
_NOT_SETTINGS = ("is_local", "local_files_only")


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder has vocabulary files of any known form, or names a class that needs none."""
    if any((folder / name).is_file() for name in _VOCABULARIES):
        return True
    return tokenizer_config(folder).get("tokenizer_class") in _WITHOUT_VOCABULARY


def build_tokenizer(checkpoint: Checkpoint, family: Family) -> Any:
    """Load the checkpoint's tokenizer with transformers.

    Args:
        checkpoint: The checkpoint.
        family: Its family, whose tokenizer class is the default.

    Returns:
        transformers' tokenizer object, the class that AutoTokenizer would choose; a fast one for ESM.

    Raises:
        RepositoryError: If vocabulary files are missing or cannot be read.
        BackendError: If the class needs a package that is not installed.
        CheckpointError: If a vocabulary file is a pointer of git-lfs, empty, truncated or damaged.
    """
    folder = checkpoint.model_folder
    if not has_tokenizer(folder):
        raise RepositoryError(
            f"{folder} has no tokenizer: none of {', '.join(_VOCABULARIES)}. Copy the files of the original "
            "checkpoint there."
        )
    _refuse_pointers(folder)
    transformers = import_transformers()
    name = tokenizer_class_name(checkpoint, family)
    check_token_ids(folder)
    try:
        with panics_as_exceptions():
            tokenizer = _class_of(transformers, name).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # KeyError, TypeError, and the bare class from tokenizers, all for broken files
        if package := _missing_package(folder, error):
            raise BackendError(
                f"{folder} has a tokenizer of class {name}, which needs a package that is not installed: {package}"
            ) from error
        _refuse_damaged(folder, error)
        raise RepositoryError(
            f"{folder} has no tokenizer that {name} can read ({error}). Copy tokenizer.json, "
            "vocab.txt, vocab.json with merges.txt, or the SentencePiece model of the original checkpoint there."
        ) from error
    _refuse_empty(tokenizer, folder, name)
    return as_fast(tokenizer) if name == PYTHON_CLASS else tokenizer


def _refuse_empty(tokenizer: Any, folder: Path, name: str) -> None:
    """Raise RepositoryError if a tokenizer knows special tokens alone, which transformers builds without its files."""
    if tokenizer.vocab_size <= len(set(tokenizer.all_special_tokens)):
        raise RepositoryError(
            f"{folder} has no vocabulary for {name}, which then reads every word as unknown. Copy the vocabulary of "
            "the original checkpoint there (tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece "
            "model), and name the tokenizer_class that reads it in tokenizer_config.json."
        )


def _refuse_pointers(folder: Path) -> None:
    """Raise CheckpointError if a vocabulary file is a pointer of git-lfs, or empty."""
    for name in _VOCABULARIES:
        if (folder / name).is_file():
            refuse_pointer(folder / name)


def _refuse_damaged(folder: Path, error: Exception) -> None:
    """Raise CheckpointError if a vocabulary that could not be read is no complete JSON or SentencePiece file."""
    for name in (TOKENIZER_FILE, "vocab.json"):
        if (folder / name).is_file():
            refuse_cut_json(folder / name)
    files = [folder / name for name in _SENTENCEPIECE if (folder / name).is_file()]
    for path in files if _is_installed("sentencepiece") else ():
        try:
            importlib.import_module("sentencepiece").SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError):
            # transformers goes on to try tiktoken, and its error names that alone.
            raise CheckpointError(
                f"{path} is truncated or damaged (SentencePiece cannot read it). Download it again."
            ) from error


def _class_of(transformers: Any, name: str) -> Any:
    """Return a tokenizer class of transformers; the generic one for any other name that a repo may give.

    Classes such as AutoTokenizer or AutoModel would import torch, and ask whether to run the repo's own code.
    """
    if name.endswith(("Tokenizer", "TokenizerFast")) and not name.startswith("Auto"):
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedTokenizerBase):
            return found
    return transformers.PreTrainedTokenizerFast


def _missing_package(folder: Path, error: Exception) -> str:
    """Return which package a tokenizer lacks, as the end of a sentence; "" if the error has another reason."""
    # transformers' own words name tiktoken, which reads no SentencePiece file.
    if any((folder / name).is_file() for name in _SENTENCEPIECE) and not (folder / TOKENIZER_FILE).is_file():
        absent = [name for name in ("sentencepiece", "google.protobuf") if not _is_installed(name)]
        if absent:
            return f"{', '.join(absent)}. Run `pip install sentencepiece protobuf`."
    if not isinstance(error, ImportError):
        return ""
    # Packages that split words of Japanese and Chinese, and those of XLM's tokenizers, have extras of their own.
    said = str(error).lower()
    extra = next((name for name, words in _EXTRAS.items() if any(word in said for word in words)), None)
    return f"{error}" + (f" Run `pip install 'mlx-hf-bridge[{extra}]'`." if extra else "")


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that should contain it
        return False


def import_transformers() -> Any:
    """Import transformers without its warning that torch is not installed; only its tokenizers are needed here."""
    if "transformers" in sys.modules:
        return importlib.import_module("transformers")
    # This works before transformers' own loggers exist.
    with no_logging(logging.WARNING):
        return importlib.import_module("transformers")


def write_tokenizer(checkpoint: Checkpoint, family: Family, folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json; nothing for a checkpoint without vocabulary files.

    A tokenizer that cannot be written in that form, or that this environment cannot build, is copied as it is: weights
    are useful without it, and what needs it says why it cannot be used.
    """
    source = checkpoint.model_folder
    if not has_tokenizer(source):
        return
    try:
        tokenizer = build_tokenizer(checkpoint, family)
    except BridgeError as error:
        logger.warning("converted without a tokenizer.json: %s", error)
        tokenizer = None
    # One that is written in Python has no other form than its own files.
    if tokenizer is None or not _is_expressible(tokenizer):
        _copy(source, folder, checkpoint.folder, (*_VOCABULARIES, *_COMPANIONS))
        path = folder / TOKENIZER_CONFIG_FILE
        settings = read_json(path) if path.is_file() else {}
        # Anything but a dict stays as it is, for its error where texts come.
        if isinstance(settings, dict):
            write_json(path, {**settings, _COPIED: True})
        return
    _check_templates(checkpoint, tokenizer)
    try:
        tokenizer.save_pretrained(str(folder))
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # for settings that replace parts of it
        raise ConfigError(
            f"{source / TOKENIZER_CONFIG_FILE} has settings with which the tokenizer cannot be saved ({error!s:.200}). "
            "Take the original file."
        ) from error
    # The class knows its inputs and does not save them; programs that read the folder without the class need them.
    saved = {key: value for key, value in tokenizer_config(folder).items() if key not in _NOT_SETTINGS}
    write_json(folder / TOKENIZER_CONFIG_FILE, {**saved, "model_input_names": list(tokenizer.model_input_names)})
    _copy(source, folder, checkpoint.folder, ("special_tokens_map.json",))


def _is_expressible(tokenizer: Any) -> bool:
    """Whether tokenizer.json has a form for a tokenizer; not for code in Python, such as RoFormer's word splitter."""
    if not tokenizer.is_fast:
        return False
    try:
        tokenizer.backend_tokenizer.to_str()
    except Exception as error:  # the bare class is what tokenizers raises
        return "cannot be serialized" not in str(error)
    return True


def _check_templates(checkpoint: Checkpoint, tokenizer: Any) -> None:
    """Refuse chat templates that are links to texts elsewhere, or whose names are paths: each is written to a file."""
    folder = checkpoint.model_folder
    for path in (folder / TEMPLATE_FILE, *(folder / TEMPLATE_FOLDER).glob("*")):
        check_inside(path, checkpoint.folder)
    templates = getattr(tokenizer, "chat_template", None)
    for name in templates if isinstance(templates, dict) else ():
        if "/" in relative_path(name, folder / TOKENIZER_CONFIG_FILE):
            raise ConfigError(
                f"{folder / TOKENIZER_CONFIG_FILE} has a chat template of the name {name!r:.80}, which is a path. "
                "Take the original file."
            )


def _copy(source: Path, folder: Path, root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        copy_file(source / name, folder / name, root)


def load_tokenizer(
    folder: Path, family: Family, config: Mapping[str, Any], settings: Mapping[str, Any] | None = None
) -> Tokenizer:
    """Load the tokenizer of a converted folder.

    Args:
        folder: The folder.
        family: The family of its model.
        config: The content of its config.json.
        settings: Keys that override those of tokenizer_config.json.

    Returns:
        The tokenizer.

    Raises:
        RepositoryError: If the folder has no tokenizer, or a broken one.
        BackendError: If a package is missing that reads its vocabulary.
        CheckpointError: If a vocabulary file is a pointer of git-lfs, empty, truncated or damaged.
    """
    _refuse_pointers(folder)
    given = {**tokenizer_config(folder), **read_templates(folder), **(settings or {})}
    is_written = (folder / TOKENIZER_FILE).is_file() and not given.get(_COPIED)
    if is_written or not has_tokenizer(folder):
        return Tokenizer.from_folder(folder, given)
    source = locate(folder, HubOptions())
    built = build_tokenizer(Checkpoint(source, folder, folder, dict(config), None), family)
    given["model_input_names"] = list(built.model_input_names)
    if _is_expressible(built):
        return Tokenizer(built.backend_tokenizer, given)
    refuse_further_inputs(built)
    # Its class has special tokens that its files need not name.
    named = {**given, **built.special_tokens_map, "tokenizer_class": type(built).__name__}
    return Tokenizer(PythonBackend(built), named)


def refuse_further_inputs(tokenizer: Any) -> None:
    """Refuse a tokenizer that gives a model more than token ids, as RoCBert's does with shapes of characters.

    Args:
        tokenizer: A tokenizer of transformers that is written in Python.

    Raises:
        UnsupportedModelError: If it does, or cannot read a text.
    """
    try:
        given = tokenizer("a", verbose=False)
    except Exception as error:  # TAPAS reads tables; Juman++ is a program that may not be installed
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} cannot read a text ({error!s:.200}). {_BY_IDS}"
        ) from error
    if names := [name for name in given if name not in _INPUTS]:
        raise UnsupportedModelError(
            f"{type(tokenizer).__name__} gives the model {', '.join(names)} next to token ids, which are not passed on "
            f"with texts here. {_BY_IDS}"
        )
