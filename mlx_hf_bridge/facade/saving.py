"""Save a facade: the weights that it was loaded with, not the empty module that torch sees."""

import json
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE
from mlx_hf_bridge.checkpoints.paths import copy_file
from mlx_hf_bridge.checkpoints.repo_files import PACKING_KEYS, write_json
from mlx_hf_bridge.errors import RepositoryError
from mlx_hf_bridge.facade.fallback import BRIDGE
from mlx_hf_bridge.loading.stored import check_still_there
from mlx_hf_bridge.runtime.atomic_folder import filling

# Options of transformers' save_pretrained, with the values that change nothing here.
_NO_EFFECT = {"safe_serialization": (True, None), "is_main_process": (True,), "push_to_hub": (False,)}


def save(model: Any, folder: Path, options: dict[str, Any]) -> bool:
    """Write config.json and the weights as they are in the converted folder, unless torch is needed for that.

    Float weights load in transformers; quantized weights load here and in MLX tools. A facade of a quantized model that
    can fall back to torch saves the torch model's float weights instead.

    Args:
        model: The facade.
        folder: The folder; created if needed.
        options: Arguments of PreTrainedModel.save_pretrained.

    Returns:
        Whether it was written; False means that torch is needed.

    Raises:
        RepositoryError: If the path is a file.
        CheckpointError: If the folder that the weights are copied from has changed.
    """
    bridge = model.__dict__[BRIDGE]
    unsupported = [name for name, value in options.items() if value not in _NO_EFFECT.get(name, ())]
    packed = bridge.model.quantization_config is not None
    if unsupported or model.dtype != bridge.dtype or (packed and bridge.fall_back):
        return False
    if folder.is_file():
        raise RepositoryError(f"{folder} is a file, expected a folder to save into. Give another path.")
    check_still_there(bridge.model.folder, bridge.model.loaded.content)
    # Packing and dtype of the copied weights, which the caller's config does not know.
    stored = json.loads((bridge.model.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    packing = {key: stored[key] for key in (*PACKING_KEYS, "dtype") if key in stored}
    model.config.architectures = [type(model).__name__]

    with filling(folder) as new:
        model.config.save_pretrained(new)
        config = json.loads((new / CONFIG_FILE).read_text(encoding="utf-8"))
        write_json(new / CONFIG_FILE, config | packing)
        for file in bridge.model.folder.glob("*.safetensors*"):
            copy_file(file, new / file.name, bridge.model.folder)
    return True
