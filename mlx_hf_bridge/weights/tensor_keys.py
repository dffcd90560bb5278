"""Keys of config.json that the names of a checkpoint's tensors tell, where the file itself does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.safetensors_file import WeightFile


def complete_config(files: Sequence[WeightFile], family: Family, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json with the keys that the tensors tell.

    Args:
        files: The weight files of a checkpoint.
        family: The implementation of its model_type.
        raw: The content of config.json.

    Returns:
        A new dict; what the tensors tell wins over a key of the same name.
    """
    if family.keys_of_tensors is None:
        return dict(raw)
    return {**raw, **family.keys_of_tensors({name.rpartition(".")[0] for file in files for name in file.tensor_infos})}
