"""Write a loaded model to a folder, with the config, dtype, file names and shard size of the caller."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import mlx.core as mx

from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, METADATA_FILE, add_variant, read_json
from mlx_hf_bridge.checkpoints.metadata import read_metadata
from mlx_hf_bridge.checkpoints.paths import copy_folder
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.checkpoints.safetensors_file import INDEX_FILE, SINGLE_FILE, dtype_name, shards
from mlx_hf_bridge.conversion.integrity import write_metadata
from mlx_hf_bridge.errors import ArgumentTypeError, InputError, RepositoryError
from mlx_hf_bridge.runtime.atomic_folder import SCRATCH, filling, replacing_files
from mlx_hf_bridge.weights.name_mapping import KEEP_FILE_DTYPE

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", re.IGNORECASE)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_FLOATS = (mx.float32, mx.float16, mx.bfloat16)
DEFAULT_SHARD = "50GB"  # the default of transformers' save_pretrained


def parse_size(size: int | str) -> int:
    """Convert a size such as "5MB" (5,000,000) or "5MiB" (5,242,880) to bytes.

    Args:
        size: A number of bytes, or text with a unit from B to TB or TiB.

    Returns:
        The number of bytes, at least 1.

    Raises:
        InputError: If it is neither.
    """
    match = _SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    found = size if type(size) is int else 0
    if match:
        found = int(float(match[1]) * (1024 if match[3] else 1000) ** _UNITS[match[2].upper()])
    if found < 1:
        raise InputError(f"max_shard_size={size!r}, expected a number of bytes as an integer, or text like '5GB'.")
    return found


def save_folder(
    folder: Path,
    target: Path,
    config: dict[str, Any],
    dtype: mx.Dtype,
    variant: str | None = None,
    max_shard_size: int | str = DEFAULT_SHARD,
) -> None:
    """Write the converted folder to another one, with this config and its float tensors in `dtype`.

    Args:
        folder: The converted folder that the model was loaded from.
        target: The folder to write to; created if needed. Weights of an earlier save are replaced.
        config: The content of the new config.json.
        dtype: The dtype of float tensors that are not quantized.
        variant: The word to put into the weight files' names ("fp16": model.fp16.safetensors), or None.
        max_shard_size: The largest size of one weight file, in bytes or as text ("5GB").

    Raises:
        RepositoryError: If `target` is a file, cannot be written, or is the model's own folder and the weights would
            change.
        InputError: If `max_shard_size` is not a size.
    """
    if target.is_file():
        raise RepositoryError(f"{target} is a file, expected a folder to save into. Give another path.")
    limit, weights = parse_size(max_shard_size), _weight_files(folder)
    stored = read_json(folder / CONFIG_FILE)
    size = sum(path.stat().st_size for path in weights)
    # Files that would not change are copied, which needs no memory for the weights.
    unchanged = stored.get("dtype") == dtype_name(dtype) and size <= limit and variant is None and len(weights) == 1
    content = {**config, "dtype": dtype_name(dtype)}
    if target.resolve() == folder.resolve():
        if not unchanged:
            raise RepositoryError(
                f"{target} is the folder that the model was loaded from, and its weights would change. Give another "
                "path."
            )
        # Through JSON, whose keys are texts: those of id2label are integers here.
        if json.loads(json.dumps(content)) != stored:
            _replace_config(target, content, dtype)
        return
    # Complete or not at all, also on a disk that is full.
    with filling(target, partial(_is_earlier_weights, variant)) as new:
        skipped = (METADATA_FILE, f".*{SCRATCH}", *(() if unchanged else ("*.safetensors*",)))
        copy_folder(folder, new, folder, skipped)
        if not unchanged:
            _write_weights(weights, new, dtype, variant, limit)
        write_json(new / CONFIG_FILE, content)
        _write_metadata(folder, new, dtype)


def _replace_config(folder: Path, content: dict[str, Any], dtype: mx.Dtype) -> None:
    """Replace config.json of a folder, then the metadata, which has its digest."""
    with replacing_files(folder) as new:
        write_json(new / CONFIG_FILE, content)
    with replacing_files(folder) as new:
        _write_metadata(folder, folder, dtype, new)


def _weight_files(folder: Path) -> list[Path]:
    single = folder / SINGLE_FILE
    return [single] if single.is_file() else shards(folder / INDEX_FILE)


def _write_weights(files: list[Path], target: Path, dtype: mx.Dtype, variant: str | None, limit: int) -> None:
    """Write the tensors to one file, or to shards with their index."""
    arrays: dict[str, mx.array] = {}
    for file in files:
        arrays |= _cast(mx.load(str(file)), dtype)
    split = huggingface_hub.split_state_dict_into_shards_factory(
        arrays,
        get_storage_size=lambda array: int(array.nbytes),
        # No two arrays of a converted folder share memory.
        get_storage_id=lambda array: None,
        filename_pattern=add_variant("model{suffix}.safetensors", variant),
        max_shard_size=limit,
    )
    for name, tensors in split.filename_to_tensors.items():
        part = {tensor: arrays[tensor] for tensor in tensors}
        mx.save_safetensors(str(target / name), part, metadata={"format": "mlx"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(target / add_variant(INDEX_FILE, variant), index)


def _cast(loaded: Any, dtype: mx.Dtype) -> dict[str, mx.array]:
    return {
        name: array.astype(dtype)
        if array.dtype in _FLOATS and name.rpartition(".")[2] not in KEEP_FILE_DTYPE
        else array
        for name, array in loaded.items()
    }


def _is_earlier_weights(variant: str | None, name: str) -> bool:
    """Whether a file has weights of an earlier save of this variant, which a reader might load instead of new ones."""
    infix = f"\\.{re.escape(variant)}" if variant else ""
    earlier = rf"model{infix}(-\d{{5}}-of-\d{{5}})?\.safetensors|model\.safetensors\.index{infix}\.json"
    return re.fullmatch(earlier, name) is not None


def _write_metadata(folder: Path, target: Path, dtype: mx.Dtype, new: Path | None = None) -> None:
    """Write conversion_metadata.json with the current sizes and digests of the target's files, to `new` if given."""
    if not (folder / METADATA_FILE).is_file():
        return
    metadata = read_metadata(folder)
    names = [*(metadata.get("files") or ()), *(path.name for path in target.glob("model*.safetensors*"))]
    found = [target / name for name in sorted(set(names)) if (target / name).is_file()]
    weights = sum(path.stat().st_size for path in found if path.suffix == ".safetensors")
    write_metadata(target, {**metadata, "dtype": dtype_name(dtype), "weight_bytes": weights}, found, new)


def check_options(options: dict[str, Any], known: tuple[str, ...]) -> None:
    """Check that save_pretrained got no other arguments than those it knows.

    Args:
        options: The arguments given by name.
        known: The names that are known.

    Raises:
        ArgumentTypeError: If an argument is not known.
    """
    if unknown := sorted(set(options) - set(known)):
        raise ArgumentTypeError(f"save_pretrained() got {', '.join(unknown)}, which it does not take. Omit it.")
