"""A repo id or folder becomes a ready module: files, config, tensors, module, packed, from a converted folder.

Reads as the flow; every step is in its own file.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_hf_bridge.device import activation_dtype
from mlx_hf_bridge.errors import ConfigError, QuantizationError
from mlx_hf_bridge.family import EncoderConfig, Family
from mlx_hf_bridge.inference.model import Model, build, set_activation_dtype
from mlx_hf_bridge.inference.run import run
from mlx_hf_bridge.loading.checkpoint import Checkpoint, open_weights, read_checkpoint
from mlx_hf_bridge.loading.convert import FORMAT, plan_conversion, write_conversion
from mlx_hf_bridge.loading.converted import cache_folder, made_once
from mlx_hf_bridge.loading.source import HubOptions, Source, locate
from mlx_hf_bridge.loading.tensors import TensorInfo
from mlx_hf_bridge.loading.weights import Names, Place, check_shapes, fill, place_all
from mlx_hf_bridge.models import family_for
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, QuantizationLike, recipe_from

logger = logging.getLogger(__name__)

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_PACKING_KEYS = ("group_size", "bits", "mode")


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
    name: str | Path,
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
    source = locate(name, options or HubOptions())
    checkpoint = read_checkpoint(source)
    if checkpoint.is_converted:
        _check_packing(checkpoint, recipe, stored)
    else:
        checkpoint = _converted(checkpoint, task, recipe, stored, show_progress)
    return read_converted(checkpoint, task, pooler, source)


def dtype_from(given: Any) -> mx.Dtype | None:
    """"auto" or None (the checkpoint's own) -> None; a name, an mx, torch or numpy dtype -> MLX's."""
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
    names = Names(family, task)
    files = open_weights(checkpoint)
    infos = {name: info for file in files for name, info in file.infos.items()}
    placed = place_all(names, infos, str(checkpoint.folder))
    has_pooler = any(place.ours and place.ours.startswith("pooler.") for place in placed.values())
    model = build(family, config, task, pooler=pooler and has_pooler)
    packing = _packing(checkpoint)
    _pack(model, placed, packing)
    check_shapes(names, placed, infos, model, str(checkpoint.folder))
    stored = _stored_dtype(infos, placed)
    computed = activation_dtype(stored)

    def read() -> list[mx.array]:
        arrays = {
            name: _widened(array, placed[name], computed)
            for file in files
            for name, array in file.arrays()
            if name in placed and placed[name].ours
        }
        fill(model, placed, arrays)
        set_activation_dtype(model, computed)
        mx.eval(model.parameters())
        return []

    run(read)
    recipe = MLXQuantizationConfig(**{key: packing[key] for key in _PACKING_KEYS if key in packing}) if packing else None
    return Loaded(model, family, config, checkpoint.config, checkpoint.folder, task, stored, recipe, source)


def _packing(checkpoint: Checkpoint) -> dict[str, Any]:
    """The packing that config.json tells of, under either of mlx-lm's keys; {} for a float folder."""
    packing = checkpoint.config.get("quantization") or checkpoint.config.get("quantization_config") or {}
    if packing and not {"group_size", "bits"} <= set(packing):
        raise QuantizationError(
            f"config.json has quantization_config={packing!r}, which is not MLX's packing (group_size, bits, mode). "
            "Use the unquantised checkpoint and pass quantization_config='q8' or another recipe."
        )
    return packing


def _pack(model: Model, placed: dict[str, Place], packing: dict[str, Any]) -> None:
    """Give every module that has scales in the file the packed form of its recipe."""
    recipes: dict[str, dict[str, Any]] = {}
    default = {key: packing[key] for key in _PACKING_KEYS if key in packing}
    for place in placed.values():
        if place.leaf != "scales" or place.ours is None:
            continue
        override = packing.get(place.module)
        recipe = {**default, **override} if isinstance(override, dict) else default
        if recipes.setdefault(place.ours, recipe) != recipe:
            raise QuantizationError(
                f"config.json packs the parts of {place.ours} differently ({recipes[place.ours]} and {recipe}), "
                "which cannot be joined. Convert the checkpoint with one recipe for queries, keys and values."
            )
    if recipes:
        nn.quantize(model, class_predicate=lambda path, module: recipes.get(path, False))


def _stored_dtype(infos: dict[str, TensorInfo], placed: dict[str, Place]) -> mx.Dtype:
    """The dtype of the tensors that are not packed: the commonest."""
    dtypes = [infos[name].mlx_dtype for name, place in placed.items() if infos[name].is_float and place.is_base]
    return max((mx.float32, mx.float16, mx.bfloat16), key=dtypes.count)


def _widened(array: mx.array, place: Place, dtype: mx.Dtype) -> mx.array:
    """Float weights in the dtype that is computed in; packed codes and their scales as they are."""
    keep = place.leaf in ("scales", "biases") or not mx.issubdtype(array.dtype, mx.floating)
    return array if keep else array.astype(dtype)


def _check_packing(checkpoint: Checkpoint, recipe: MLXQuantizationConfig | None, dtype: mx.Dtype | None) -> None:
    packing = _packing(checkpoint)
    there = {key: packing[key] for key in _PACKING_KEYS if key in packing}
    wanted = {key: value for key, value in recipe.to_dict().items() if key in _PACKING_KEYS} if recipe else None
    if wanted is not None and {"mode": "affine", **there} != wanted:
        raise QuantizationError(
            f"{checkpoint.source.name} is already converted with {there or 'no packing'}, and {wanted} was asked. "
            "Leave quantization_config out, or convert the original checkpoint."
        )
    if dtype is not None and checkpoint.config.get("dtype") not in (None, str(dtype).removeprefix("mlx.core.")):
        raise ConfigError(
            f"{checkpoint.source.name} is already converted to {checkpoint.config['dtype']}, and {dtype} was asked. "
            "Leave dtype out, or convert the original checkpoint."
        )
