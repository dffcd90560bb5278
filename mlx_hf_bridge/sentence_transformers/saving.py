"""A converted folder written where the user wants it, complete as a sentence-transformers repo."""

import shutil
from pathlib import Path

from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.loading.checkpoint import CONFIG_FILE, MODULES_FILE, ModuleEntry, read_json
from mlx_hf_bridge.loading.folder import write_json

_PLAIN_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def save(folder: Path, target: Path, entries: tuple[ModuleEntry, ...] | None) -> None:
    """Copy the folder; a plain encoder gets the modules.json that says what encode did: mean pooling."""
    if target.is_file():
        raise RepositoryError(f"{target} is a file, expected a folder to save into. Give another path.")
    if target.resolve() != folder.resolve():
        shutil.copytree(folder, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
    if entries is None:
        config = read_json(target / CONFIG_FILE)
        width = config.get("hidden_size", config.get("dim"))
        (target / "1_Pooling").mkdir(exist_ok=True)
        pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
        write_json(target / "1_Pooling" / CONFIG_FILE, pooling)
        write_json(target / MODULES_FILE, _PLAIN_MODULES)
