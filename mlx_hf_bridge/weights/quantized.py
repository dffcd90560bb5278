"""MLX's packing as config.json describes it, and the model's modules replaced by packed ones."""

from collections.abc import Mapping
from typing import Any

import mlx.nn as nn

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.inference.model import Model
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig
from mlx_hf_bridge.weights.name_mapping import NameMapping, TensorTarget

_KEYS = ("group_size", "bits", "mode")
# Values of quant_method: mlx-lm writes none or "mlx"; transformers' MetalConfig "metal", packed in the same way.
_METHODS = (None, "mlx", "metal")


def read_packing(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return MLX's packing from config.json, under either of mlx-lm's keys.

    Args:
        config: The content of config.json.

    Returns:
        `group_size`, `bits`, `mode`, and an entry by module path where a module differs; {} for float weights.

    Raises:
        QuantizationError: If another tool has packed the weights.
    """
    # mlx-lm's own key first: the second one may be another library's quantizer.
    packing = config.get("quantization") or config.get("quantization_config") or {}
    if not packing:
        return {}
    known = isinstance(packing, dict) and {"group_size", "bits"} <= set(packing)
    if not known or packing.get("quant_method") not in _METHODS:
        method = packing.get("quant_method") if isinstance(packing, dict) else None
        raise QuantizationError(
            f"config.json has quantization_config={packing!r}{f', packed by {method!r}' if method else ''}, which is "
            "not MLX's packing (group_size, bits, mode). Use the unquantized checkpoint and pass "
            "quantization_config='q8' or another recipe."
        )
    return packing


def recipe_from_packing(packing: Mapping[str, Any]) -> MLXQuantizationConfig | None:
    """Return the recipe with a packing's bits, group size and mode; None for float weights."""
    return MLXQuantizationConfig(**_recipe_fields(packing)) if packing else None


def packing_config(
    recipe: MLXQuantizationConfig | None, modules: Mapping[str, MLXQuantizationConfig]
) -> dict[str, Any]:
    """Return the packing of config.json in mlx-lm's form.

    Args:
        recipe: The conversion's recipe; its bits, group size and mode are the default for all modules.
        modules: Checkpoint module path -> the recipe that packs it.

    Returns:
        The recipe's packing, with an entry by path for each module that differs; {} if nothing is packed.
    """
    if recipe is None or not modules:
        return {}
    default = _packing(recipe)
    differing = {path: _packing(one) for path, one in modules.items() if _packing(one) != default}
    return {**default, **differing}


def _packing(recipe: MLXQuantizationConfig) -> dict[str, Any]:
    return {key: getattr(recipe, key) for key in _KEYS}


def quantize_modules(
    model: Model, names: NameMapping, targets: Mapping[str, TensorTarget], packing: Mapping[str, Any]
) -> None:
    """Replace every module that has scales in the file by MLX's packed module.

    Args:
        model: The model, built but without weights.
        names: The family's name tables.
        targets: Tensor name -> target, of the converted folder.
        packing: The packing of config.json (`read_packing`); entries by module path override it.

    Raises:
        QuantizationError: If the slices of a fused module are packed differently.
    """
    overrides = {
        target.module: value
        for key, value in packing.items()
        if isinstance(value, dict) and (target := names.resolve(f"{key}.weight")) is not None
    }
    recipes: dict[str, dict[str, Any]] = {}
    for target in targets.values():
        if target.leaf != "scales" or target.path is None:
            continue
        recipe = {**_recipe_fields(packing), **_recipe_fields(overrides.get(target.module, {}))}
        # A fused matrix has one group size and one number of bits.
        if recipes.setdefault(target.path, recipe) != recipe:
            raise QuantizationError(
                f"config.json packs the slices of {target.path} differently ({recipes[target.path]} and {recipe}), "
                "which cannot be fused. Convert the checkpoint with one recipe for queries, keys and values."
            )
    if recipes:
        # MLX takes a dictionary from the predicate as the arguments of to_quantized.
        nn.quantize(model, class_predicate=lambda path, module: recipes.get(path, False))


def check_same_recipe(
    packing: Mapping[str, Any], noted: Mapping[str, Any] | None, recipe: MLXQuantizationConfig, where: str
) -> None:
    """Raise QuantizationError if a converted folder is opened with another recipe than its own.

    Args:
        packing: The packing of the folder's config.json.
        noted: The recipe in its conversion_metadata.json; None for a folder of another tool, whose packing is
            compared instead.
        recipe: The recipe that the caller asked for.
        where: The folder or repo, for the message.
    """
    asked = recipe.to_dict()
    if asked == noted or (
        noted is None and recipe_from_packing(packing) == MLXQuantizationConfig(**_recipe_fields(asked))
    ):
        return
    raise QuantizationError(
        f"{where} is already converted with {noted or _recipe_fields(packing) or 'no packing'}, and {asked} was asked. "
        "Leave quantization_config out, or convert the original checkpoint."
    )


def _recipe_fields(packing: Mapping[str, Any]) -> dict[str, Any]:
    return {key: packing[key] for key in _KEYS if key in packing}
