"""What a folder's config.json says of packed weights, and the model's modules put into that form."""

from collections.abc import Mapping
from typing import Any

import mlx.nn as nn

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.weights.name_mapping import NameMapping, TensorTarget

_KEYS = ("group_size", "bits", "mode")
# quant_method of mlx-lm (absent, or "mlx") and of transformers' MetalConfig, which packs in the same way.
_METHODS = (None, "mlx", "metal")


def read_packing(config: Mapping[str, Any]) -> dict[str, Any]:
    """MLX's packing under either of mlx-lm's keys; {} for float weights; QuantizationError for another tool's."""
    packing = config.get("quantization") or config.get("quantization_config") or {}
    if not packing:
        return {}
    known = isinstance(packing, dict) and {"group_size", "bits"} <= set(packing)
    if not known or packing.get("quant_method") not in _METHODS:
        method = packing.get("quant_method") if isinstance(packing, dict) else None
        raise QuantizationError(
            f"config.json has quantization_config={packing!r}{f', packed by {method!r}' if method else ''}, which is "
            "not MLX's packing (group_size, bits, mode). Use the unquantised checkpoint and pass "
            "quantization_config='q8' or another recipe."
        )
    return packing


def recipe_from_packing(packing: Mapping[str, Any]) -> MLXQuantizationConfig | None:
    """The recipe that a packing was made with; None for float weights."""
    return MLXQuantizationConfig(**_recipe(packing)) if packing else None


def packing_config(
    recipe: MLXQuantizationConfig | None, modules: Mapping[str, MLXQuantizationConfig]
) -> dict[str, Any]:
    """mlx-lm's form for packed modules: the recipe's own width, and by path where a module's differs."""
    if recipe is None or not modules:
        return {}
    width = _width_of(recipe)
    differing = {path: _width_of(one) for path, one in modules.items() if _width_of(one) != width}
    return {**width, **differing}


def _width_of(recipe: MLXQuantizationConfig) -> dict[str, Any]:
    return {key: getattr(recipe, key) for key in _KEYS}


def quantize_modules(
    model: Model, names: NameMapping, targets: Mapping[str, TensorTarget], packing: Mapping[str, Any]
) -> None:
    """Give every module that has scales in the file the packed form of its recipe (mlx-lm: one path may differ)."""
    overrides = {
        place.module: value
        for key, value in packing.items()
        if isinstance(value, dict) and (place := names.resolve(f"{key}.weight")) is not None
    }
    recipes: dict[str, dict[str, Any]] = {}
    for place in targets.values():
        if place.leaf != "scales" or place.path is None:
            continue
        recipe = {**_recipe(packing), **_recipe(overrides.get(place.module, {}))}
        if recipes.setdefault(place.path, recipe) != recipe:
            raise QuantizationError(
                f"config.json packs the parts of {place.path} differently ({recipes[place.path]} and {recipe}), "
                "which cannot be joined. Convert the checkpoint with one recipe for queries, keys and values."
            )
    if recipes:
        nn.quantize(model, class_predicate=lambda path, module: recipes.get(path, False))


def check_same_recipe(
    packing: Mapping[str, Any], noted: Mapping[str, Any] | None, recipe: MLXQuantizationConfig, where: str
) -> None:
    """QuantizationError when a converted folder is asked for a recipe that is not its own.

    noted: the recipe in its conversion_metadata.json; None for a folder of another tool, of which the packing tells.
    """
    asked = recipe.to_dict()
    if asked == noted or (noted is None and recipe_from_packing(packing) == MLXQuantizationConfig(**_recipe(asked))):
        return
    raise QuantizationError(
        f"{where} is already converted with {noted or _recipe(packing) or 'no packing'}, and {asked} was asked. "
        "Leave quantization_config out, or convert the original checkpoint."
    )


def _recipe(packing: Mapping[str, Any]) -> dict[str, Any]:
    return {key: packing[key] for key in _KEYS if key in packing}
