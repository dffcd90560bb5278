"""A converted folder written in the form of transformers' own "metal" quantizer, which plain transformers loads.

Reference: transformers/integrations/metal_quantization.py. The packing is MLX's; `biases` are called `qbiases`,
embedding tables are float, and modules that are not packed are listed in config.json.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.architecture.family import BASE_TASK
from mlx_hf_bridge.checkpoints.checkpoint import CONFIG_FILE, METADATA_FILE, read_checkpoint
from mlx_hf_bridge.checkpoints.paths import copy_folder
from mlx_hf_bridge.checkpoints.repo_files import write_json
from mlx_hf_bridge.checkpoints.safetensors_file import SINGLE_FILE
from mlx_hf_bridge.checkpoints.sources import HubOptions, locate
from mlx_hf_bridge.conversion.output_folder import is_occupied
from mlx_hf_bridge.errors import QuantizationError, RepositoryError
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.policy import TOKEN_EMBEDDING
from mlx_hf_bridge.runtime.atomic_folder import write_atomically
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.runtime.executor import run
from mlx_hf_bridge.weights.name_mapping import NameMapping
from mlx_hf_bridge.weights.quantized import read_packing

_BITS = (2, 4, 8)
# Files that describe the source folder's weights, and would be wrong about the exported ones.
_NOT_COPIED = (SINGLE_FILE, CONFIG_FILE, METADATA_FILE, "verification.json")


@guarded
def export_metal(folder: str | Path, output_dir: str | Path) -> Path:
    """Export a quantized folder for transformers.AutoModel, on torch.

    Only the linear layers stay packed. transformers' quantizer has no packed embeddings, so the token embedding table
    is written in float32, which can make the file several times as large as the converted one.

    Off Apple's GPUs transformers dequantizes it on load: pass device_map={"": "cpu"}, which needs accelerate.

    Args:
        folder: A folder converted with affine 2, 4 or 8 bits, the same for all modules.
        output_dir: The folder to write; missing or empty.

    Returns:
        The new folder.

    Raises:
        RepositoryError: If `output_dir` is a file or not empty, or `folder` is not found.
        QuantizationError: If the folder is packed in another way.

    Example:
        >>> export_metal("minilm-mlx-q4", "minilm-metal-q4")
        >>> transformers.AutoModel.from_pretrained("minilm-metal-q4", device_map={"": "cpu"})
    """
    target = Path(output_dir).expanduser()
    if target.is_file() or is_occupied(target):
        raise RepositoryError(f"{target} is not an empty folder. Give another one to export to.")
    # Located as given: Path("./name") would drop the "./", without which a missing folder looks like a Hub id.
    located = locate(folder, HubOptions(local_files_only=True))
    source, checkpoint = located.folder, read_checkpoint(located)
    packing = _check_packing(read_packing(checkpoint.config), source)

    def create(new: Path) -> None:
        arrays, in_float = run(lambda: _convert_tensors(source, checkpoint.config, packing))
        mx.save_safetensors(str(new / SINGLE_FILE), arrays, metadata={"format": "pt"})
        copy_folder(source, new, source, skip=(*_NOT_COPIED, ".*"))
        config = {key: value for key, value in checkpoint.config.items() if key != "quantization"}
        method = {"quant_method": "metal", "bits": packing["bits"], "group_size": packing["group_size"]}
        config["dtype"] = "float32"
        write_json(new / CONFIG_FILE, {**config, "quantization_config": {**method, "modules_to_not_convert": in_float}})

    write_atomically(target, create)
    return target


def _check_packing(packing: Mapping[str, Any], source: Path) -> Mapping[str, Any]:
    overrides = [name for name, value in packing.items() if isinstance(value, dict)]
    if packing.get("mode", "affine") != "affine" or packing.get("bits") not in _BITS or overrides:
        what = f"{packing.get('bits', 32)} bits, mode {packing.get('mode', 'affine')}" + (
            f", {len(overrides)} modules with other bits" if overrides else ""
        )
        raise QuantizationError(
            f"{source} is packed in {what}, and the metal format has affine 2, 4 or 8 bits, the same for all modules. "
            "Convert the checkpoint with such a recipe."
        )
    return packing


def _convert_tensors(
    source: Path, config: dict[str, Any], packing: Mapping[str, Any]
) -> tuple[dict[str, mx.array], list[str]]:
    """Return the tensors under the quantizer's names, and the modules whose matrices are in float."""
    family = family_for(config)
    names = NameMapping(family, family.config.from_json(config), BASE_TASK)
    loaded = mx.load(str(source / SINGLE_FILE))
    assert isinstance(loaded, dict)
    found: dict[str, mx.array] = {}
    for name, array in loaded.items():
        module, _, leaf = name.rpartition(".")
        target = names.resolve(name)
        is_table = target is not None and target.path == TOKEN_EMBEDDING
        if is_table and f"{module}.scales" in loaded:
            if leaf == "weight":
                scales, biases = loaded[f"{module}.scales"], loaded[f"{module}.biases"]
                found[name] = mx.dequantize(
                    array, scales, biases, group_size=packing["group_size"], bits=packing["bits"]
                )
        else:
            found[f"{module}.qbiases" if leaf == "biases" else name] = array
    # transformers replaces every linear layer that this list does not name.
    in_float = [
        name.removesuffix(".weight")
        for name, array in found.items()
        if name.endswith(".weight") and array.ndim == 2 and f"{name.removesuffix('.weight')}.scales" not in found
    ]
    # transformers' module has float32 scales and dequantizes to their dtype, but keeps other tensors in the file's
    # dtype; so everything is float32.
    is_float = {name: mx.issubdtype(array.dtype, mx.floating) for name, array in found.items()}
    return {name: array.astype(mx.float32) if is_float[name] else array for name, array in found.items()}, sorted(
        in_float
    )
