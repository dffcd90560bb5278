"""A repo id or folder becomes a ready module: files, config, tensors, module, packed, from a converted folder.

Reads as the flow; every step is in its own file.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.device import activation_dtype
from mlx_hf_bridge.errors import ConfigError
from mlx_hf_bridge.family import EncoderConfig, Family
from mlx_hf_bridge.inference.model import Model, build, set_activation_dtype
from mlx_hf_bridge.inference.run import run
from mlx_hf_bridge.loading.checkpoint import METADATA_FILE, Checkpoint, open_weights, read_checkpoint, read_json
from mlx_hf_bridge.loading.convert import FORMAT, write_conversion
from mlx_hf_bridge.loading.converted import cache_folder, made_once
from mlx_hf_bridge.loading.names import EXACT_LEAVES, Names, Place, place_all
from mlx_hf_bridge.loading.packing import pack, packing_of, recipe_of, refuse_other_recipe
from mlx_hf_bridge.loading.plan import plan_conversion
from mlx_hf_bridge.loading.source import HubOptions, Source, locate
from mlx_hf_bridge.loading.tensors import TensorInfo, WeightFile, dtype_name
from mlx_hf_bridge.loading.weights import check_fit, fill
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, QuantizationLike, recipe_from

logger = logging.getLogger(__name__)

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to run, and the converted folder that it was read from."""

    model: Model
    family: Family
    config: EncoderConfig
    raw_config: dict[str, Any]
    folder: Path
    task: str
    dtype: mx.Dtype
    recipe: MLXQuantizationConfig | None
    source: Source


def load(
    name: str | Path | Source,
    task: str,
    *,
    quantization_config: QuantizationLike = None,
    dtype: Any = "auto",
    options: HubOptions | None = None,
    pooler: bool = True,
    show_progress: bool = True,
) -> Loaded:
    """The whole flow; `task` is one of the family's heads, or "feature-extraction" for the bare encoder."""
    recipe, stored = recipe_from(quantization_config), dtype_from(dtype)
    source = name if isinstance(name, Source) else locate(name, options or HubOptions())
    checkpoint = read_checkpoint(source)
    if checkpoint.is_converted or packing_of(checkpoint.config):
        _check_asked(checkpoint, recipe, stored)
    else:
        checkpoint = _converted(checkpoint, task, recipe, stored, show_progress)
    return run(lambda: read_converted(checkpoint, task, pooler, source))


def dtype_from(given: Any) -> mx.Dtype | None:
    """ "auto" or None (the checkpoint's own) -> None; a name, an mx, torch or numpy dtype -> MLX's."""
    if given is None or given == "auto":
        return None
    name = str(getattr(given, "__name__", given)).rpartition(".")[2]
    if name not in _DTYPES:
        raise ConfigError(f"dtype={given!r} is not stored here; use 'auto' or one of {', '.join(_DTYPES)}.")
    return _DTYPES[name]


def _converted(
    checkpoint: Checkpoint,
    task: str,
    recipe: MLXQuantizationConfig | None,
    dtype: mx.Dtype | None,
    show_progress: bool,
) -> Checkpoint:
    def convert(folder: Path) -> None:
        run(lambda: write_conversion(plan_conversion(checkpoint, task, recipe, dtype), folder, show_progress))

    family_for(checkpoint.config)
    folder = made_once(cache_folder(checkpoint.source, recipe, dtype, FORMAT), convert)
    return read_checkpoint(locate(folder, HubOptions()))


def read_converted(checkpoint: Checkpoint, task: str, pooler: bool, source: Source) -> Loaded:
    """A folder in the one format -> the module, weights read and evaluated."""
    family = family_for(checkpoint.config)
    config = family.config.from_json(checkpoint.config)
    packing = packing_of(checkpoint.config)
    names, where = Names(family, config, task), str(checkpoint.folder)
    files = open_weights(checkpoint)
    infos = {name: info for file in files for name, info in file.infos.items()}
    placed = place_all(names, infos, where)
    stored = _stored_dtype(infos, placed)
    has_pooler = any(place.ours and place.ours.startswith("pooler.") for place in placed.values())
    model = build(family, config, task, pooler=pooler and has_pooler)
    pack(model, names, placed, packing)
    check_fit(names, placed, infos, model, where)
    computed = activation_dtype(stored)
    if computed == mx.float16 and config.exceeds_float16:
        computed = mx.float32
    fill(model, placed, _arrays(files, placed, computed))
    set_activation_dtype(model, computed)
    mx.eval(model.parameters())
    return Loaded(model, family, config, checkpoint.config, checkpoint.folder, task, stored, recipe_of(packing), source)


def _arrays(files: list[WeightFile], placed: dict[str, Place], dtype: mx.Dtype) -> dict[str, mx.array]:
    """The tensors that the model computes with, float ones in `dtype`."""
    return {
        name: _widened(array, placed[name], dtype)
        for file in files
        for name, array in file.arrays()
        if name in placed and placed[name].ours
    }


def _stored_dtype(infos: dict[str, TensorInfo], placed: dict[str, Place]) -> mx.Dtype:
    """The dtype of the tensors that are not packed: the commonest."""
    dtypes = [infos[name].mlx_dtype for name, place in placed.items() if infos[name].is_float and place.is_base]
    return max((mx.float32, mx.float16, mx.bfloat16), key=dtypes.count)


def _widened(array: mx.array, place: Place, dtype: mx.Dtype) -> mx.array:
    """Float weights in the dtype that is computed in; packed codes and their scales as they are."""
    keep = place.leaf in ("scales", "biases", *EXACT_LEAVES) or not mx.issubdtype(array.dtype, mx.floating)
    return array if keep else array.astype(dtype)


def _check_asked(checkpoint: Checkpoint, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None) -> None:
    """A converted folder has what it has; asking for anything else is an error."""
    if recipe is not None:
        metadata = checkpoint.folder / METADATA_FILE
        noted = read_json(metadata).get("recipe") if metadata.is_file() else None
        refuse_other_recipe(packing_of(checkpoint.config), noted, recipe, checkpoint.source.name)
    if dtype is not None and checkpoint.config.get("dtype") not in (None, dtype_name(dtype)):
        raise ConfigError(
            f"{checkpoint.source.name} is already converted to {checkpoint.config['dtype']}, and {dtype} was asked. "
            "Leave dtype out, or convert the original checkpoint."
        )
