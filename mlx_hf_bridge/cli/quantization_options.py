"""The quantization that flags or a models file ask for: merged, checked, and turned into a recipe and a dtype."""

import argparse
from dataclasses import dataclass, fields, replace
from typing import Any

from mlx_hf_bridge.cli.options.shared import FLOAT_BITS, STORAGE_DTYPES
from mlx_hf_bridge.cli.texts import read_lines
from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization.recipes import BITS, BY_MODE, RECIPES, MLXQuantizationConfig, recipe_from

_DEFAULT_BITS = 8
_BITS_OF_DTYPE = {f"{sign}int{bits}": bits for sign in ("", "u") for bits in sorted(BITS["affine"])} | {"float32": 32}
DTYPES = (*_BITS_OF_DTYPE, *STORAGE_DTYPES)


@dataclass(frozen=True)
class QuantizationOptions:
    """The quantization options of one model, None for those that were not given.

    bits: 32 is no quantization (group_size has no effect then). dtype: "intN" and "float32" repeat the bits;
    "float16" and "bfloat16" are for the weights that are not quantized. recipe: a name for bits, group_size and mode,
    or a JSON file of them. calibration_texts: a file with one text per line.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: str | None = None
    dtype: str | None = None
    recipe: str | None = None
    method: str | None = None
    calibration_texts: str | None = None
    bits_per_weight: float | None = None

    def with_defaults(self, other: "QuantizationOptions") -> "QuantizationOptions":
        """Return these options with missing ones taken from `other`, unless they depend on an option given here."""
        if self.recipe or self.mode not in (None, other.mode or "affine"):
            other = replace(other, bits=None, group_size=None, mode=None)
        if (self.recipe or self.mode or self.bits) and (other.dtype in _BITS_OF_DTYPE or self.bits == FLOAT_BITS):
            other = replace(other, dtype=None)
        return QuantizationOptions(
            *(getattr(self, item.name) or getattr(other, item.name) for item in fields(QuantizationOptions))
        )

    def resolve(self) -> tuple[MLXQuantizationConfig | None, str | None]:
        """Return the recipe and the dtype that the options ask for; without bits, dtype and mode that is 8 bits.

        Returns:
            The recipe, None for 32 bits, and the dtype of the weights that are not quantized, None for the recipe's.

        Raises:
            QuantizationError: If the options contradict each other.
        """
        if self.recipe:
            return self._with_calibration(recipe_from(self.recipe)), self.dtype
        bits = self.bits
        if bits is None and self.mode in (None, "affine"):
            bits = _BITS_OF_DTYPE.get(self.dtype or "", _DEFAULT_BITS)
        if bits == FLOAT_BITS:
            self._check_float()
            return None, "float32"
        recipe = MLXQuantizationConfig(bits or BY_MODE, self.group_size or BY_MODE, self.mode or "affine")
        # The recipe of that name, which for 4 bits is not plain rounding, and its method for other groups.
        if recipe.mode == "affine":
            recipe = replace(recipe, method=RECIPES[f"q{recipe.bits}"].method)
        if (stated := _BITS_OF_DTYPE.get(self.dtype or "", recipe.bits)) != recipe.bits:
            raise QuantizationError(
                f"dtype={self.dtype!r} means {stated} bits and the quantization has {recipe.bits}"
                f"{f' (mode {recipe.mode})' if bits is None else ''}; make them agree, or leave dtype out."
            )
        return self._with_calibration(recipe), self.dtype if self.dtype in STORAGE_DTYPES else None

    def _with_calibration(self, recipe: MLXQuantizationConfig | None) -> MLXQuantizationConfig | None:
        """Return the recipe with the method, calibration texts and mean bits that were given."""
        given: dict[str, Any] = {"method": self.method, "bits_per_weight": self.bits_per_weight}
        given["calibration_texts"] = (
            None if self.calibration_texts is None else tuple(read_lines(self.calibration_texts))
        )
        changes = {name: value for name, value in given.items() if value is not None}
        if recipe is None or not changes:
            return recipe
        if "bits_per_weight" in changes:
            changes["target_size_mb"] = None
        return replace(recipe, **changes)

    def to_kwargs(self) -> dict[str, Any]:
        """Return the options as arguments of from_pretrained; empty if none was given: the model stays as it is."""
        if self == QuantizationOptions():
            return {}
        recipe, dtype = self.resolve()
        return {"quantization_config": recipe, "dtype": dtype or "auto"}

    def _check_float(self) -> None:
        if self.dtype not in (None, "float32"):
            raise QuantizationError(
                f"dtype={self.dtype!r} contradicts bits=32, which means no quantization: float32 weights. "
                "Ask for fewer bits, or leave dtype out."
            )
        if self.mode not in (None, "affine"):
            raise QuantizationError(
                f"mode={self.mode!r} contradicts bits=32, which means no quantization. Leave one of them out."
            )


def options_from_flags(args: argparse.Namespace) -> QuantizationOptions:
    """Return the quantization that the flags of a command ask for.

    Args:
        args: The parsed arguments.

    Returns:
        The options, None for those that were not given.
    """
    own = (args.method, args.calibration_texts, args.bits_per_weight)
    return QuantizationOptions(args.bits, args.group_size, args.mode, args.dtype, args.recipe, *own)
