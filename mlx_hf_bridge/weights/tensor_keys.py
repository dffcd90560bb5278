"""Keys of config.json that a checkpoint's tensors tell, where the file itself does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_hf_bridge.architecture.family import Family
from mlx_hf_bridge.checkpoints.safetensors_file import WeightFile
from mlx_hf_bridge.weights.name_mapping import spellings


def complete_config(files: Sequence[WeightFile], family: Family, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return config.json with the keys that follow from the tensors.

    Args:
        files: The weight files of a checkpoint.
        family: The implementation of its model_type.
        raw: The content of config.json.

    Returns:
        A new dict; what follows from the tensors wins over a key of the same name.
    """
    found: dict[str, Any] = {}
    if family.resizes_vocabulary and (rows := _token_table_rows(files, family)):
        found["vocab_size"] = rows
    if family.keys_of_tensors is not None:
        found |= family.keys_of_tensors({name.rpartition(".")[0] for file in files for name in file.tensor_infos})
    return {**raw, **found}


def _token_table_rows(files: Sequence[WeightFile], family: Family) -> int | None:
    """Return the number of rows of the token table; None if the files have none."""
    table = next(f"{module}.weight" for module, path in family.names.items() if path == "embeddings.word")
    for file in files:
        for name, info in file.tensor_infos.items():
            if table in spellings(family, name) and len(info.shape) == 2:
                return info.shape[0]
    return None
