"""What the files of sentence-transformers say: modules, pooling, the embedding's dimension, prompts."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, TRANSFORMER_KINDS, ModuleEntry, read_json
from mlx_hf_bridge.checkpoints.pooling_modes import read_pooling_modes
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.sentence_transformers.loading.loader import check_module
from mlx_hf_bridge.sentence_transformers.loading.settings import read_model_config
from mlx_hf_bridge.sentence_transformers.modules.transformer_settings import read_settings

# Modules that change no dimension.
_SAME_WIDTH = ("Normalize", "LayerNorm", "Dropout", "WeightedLayerPooling", "MultiVectorMask", "WordWeights")


@dataclass(frozen=True)
class Modules:
    """What is known of a repo's modules.

    Attributes:
        kinds: The kinds of the modules, in their order; () without modules.json.
        pooling: The pooling modes.
        dimension: The embedding's dimension; None if it is unknown.
        max_seq_length: The saved limit of tokens; None for none.
        settings: The content of config_sentence_transformers.json.
        problem: Why the modules cannot be loaded; "" if they can.
    """

    kinds: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()
    dimension: int | None = None
    max_seq_length: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_module_files(
    folder: Path, entries: tuple[ModuleEntry, ...] | None, hidden_size: int | None, vocab_size: int | None
) -> Modules:
    """Read the small files of the modules.

    Args:
        folder: The repo's folder.
        entries: The entries of modules.json; None without it.
        hidden_size: The encoder's hidden size; None if there is none.
        vocab_size: The encoder's number of tokens, which is the dimension of SPLADE; None if there is none.

    Returns:
        What is known; a problem instead of an error.
    """
    if entries is None:
        # sentence-transformers adds mean pooling to an encoder without modules.
        return Modules(pooling=("mean",) if hidden_size else (), dimension=hidden_size)
    found = Modules(tuple(entry.kind for entry in entries), dimension=hidden_size)
    try:
        found = replace(found, settings=read_model_config(folder))
        for entry in entries:
            check_module(entry, folder)
            found = _with_module(found, folder / entry.path, entry, vocab_size)
    except BridgeError as error:
        found = replace(found, problem=str(error))
    return found


def _with_module(found: Modules, folder: Path, entry: ModuleEntry, vocab_size: int | None) -> Modules:
    if entry.kind in TRANSFORMER_KINDS:
        return replace(found, max_seq_length=read_settings(folder, entry.kind, {}).max_seq_length)
    if entry.kind == "Pooling":
        modes = read_pooling_modes(folder)
        width = found.dimension or read_json(folder / CONFIG_FILE).get("word_embedding_dimension")
        return replace(found, pooling=modes, dimension=width and width * len(modes))
    if entry.kind == "Dense":
        return replace(found, dimension=read_json(folder / CONFIG_FILE).get("out_features"))
    if entry.kind == "SpladePooling":
        return replace(found, dimension=vocab_size)
    return found if entry.kind in _SAME_WIDTH else replace(found, dimension=None)
