"""A facade is saved: the weights that it was loaded with, never the empty module that torch sees."""

import json
import shutil
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.checkpoints.repo_files import PACKING_KEYS, write_json
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.facade.fallback import BRIDGE

# Options of transformers' save_pretrained that change nothing here: safetensors is what is written.
_WITHOUT_EFFECT = {"safe_serialization": (True, None), "is_main_process": (True,), "push_to_hub": (False,)}


def save(model: Any, folder: Path, options: dict[str, Any]) -> bool:
    """Write config.json and the weights as the converted folder has them; False = torch is needed for what is asked.

    Float weights load in transformers; packed ones here and in MLX tools. A facade that can become the torch model
    saves that one's weights where its own are packed. RepositoryError for a path that is a file.
    """
    bridge = model.__dict__[BRIDGE]
    unserved = [name for name, value in options.items() if value not in _WITHOUT_EFFECT.get(name, ())]
    packed = bridge.model.quantization_config is not None
    if unserved or model.dtype != bridge.dtype or (packed and bridge.fall_back):
        return False
    if folder.is_file():
        raise RepositoryError(f"{folder} is a file, expected a folder to save into. Give another path.")
    folder.mkdir(parents=True, exist_ok=True)
    stored = json.loads((bridge.model.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    write_json(folder / CONFIG_FILE, config | {key: stored[key] for key in (*PACKING_KEYS, "dtype") if key in stored})
    for file in bridge.model.folder.glob("*.safetensors*"):
        shutil.copyfile(file, folder / file.name)
    return True
