"""Bits and group sizes: what MLX can pack, and checks of what a user asks for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_hf_bridge.errors import QuantizationError

# mx.quantize's own limits: mode -> group sizes and bits; the first of each is the default.
GROUP_SIZES = {"affine": (64, 32, 128), "mxfp4": (32,), "mxfp8": (32,), "nvfp4": (16,)}
BITS = {"affine": (4, 2, 3, 5, 6, 8), "mxfp4": (4,), "mxfp8": (8,), "nvfp4": (4,)}
# Among the choices for a size target, 32 bits mean that a module stays in float.
FLOAT_BITS = 32


@dataclass(frozen=True)
class BitWidth:
    """The bits of a module's weights, and how many weights share a scale."""

    bits: int
    group_size: int


def check_width(name: str, value: Any, mode: str) -> int:
    """Return a value of `bits` or `group_size` that MLX packs in this mode; raise QuantizationError for another."""
    allowed = (BITS if name == "bits" else GROUP_SIZES)[mode]
    # type() and not isinstance: True would pass as 1.
    if type(value) is not int or value not in allowed:
        raise QuantizationError(
            f"{name}={value!r} is not packed by MLX in mode {mode!r}; "
            f"use {' or '.join(str(number) for number in sorted(allowed))}."
        )
    return value


def parse_modules(given: Any, mode: str) -> tuple[tuple[str, BitWidth | None], ...]:
    """Return the `modules` of a recipe as sorted pairs.

    Args:
        given: {module path: {"bits": ..., "group_size": ...}, a BitWidth, or None for float}, or None.
        mode: The recipe's mode.

    Raises:
        QuantizationError: If a key is no string, or MLX does not pack a value.
    """
    pairs = dict(given or {})
    found = {}
    for name, value in pairs.items():
        if not isinstance(name, str):
            raise QuantizationError(f"modules has the key {name!r}, expected a module's path.")
        found[name] = _width(name, value, mode)
    return tuple(sorted(found.items()))


def _width(name: str, value: Any, mode: str) -> BitWidth | None:
    if value is None or isinstance(value, BitWidth):
        return value
    if not isinstance(value, Mapping) or set(value) - {"bits", "group_size"}:
        raise QuantizationError(
            f"modules has {name}={value!r}, expected {{'bits': ..., 'group_size': ...}}, or None for float."
        )
    bits, group_size = value.get("bits", BITS[mode][0]), value.get("group_size", GROUP_SIZES[mode][0])
    return BitWidth(check_width("bits", bits, mode), check_width("group_size", group_size, mode))


def resolve_bits_choices(recipe: Any) -> tuple[int, ...]:
    """Return the bits that a size target may choose from; () for a recipe without a target.

    Args:
        recipe: The MLXQuantizationConfig that is being built.

    Raises:
        QuantizationError: If a target is no positive number, two are given, or other fields contradict it.
    """
    targets = {name: getattr(recipe, name) for name in ("target_size_mb", "bits_per_weight")}
    given = {name: value for name, value in targets.items() if value is not None}
    for name, value in given.items():
        # `not value > 0` also refuses NaN.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise QuantizationError(f"{name}={value!r}, expected a number greater than 0.")
    if len(given) == 2:
        raise QuantizationError(
            "target_size_mb and bits_per_weight were both given, and either sets the size. Give one of them."
        )
    choices = tuple(recipe.bits_choices or ())
    allowed = (*sorted(BITS["affine"]), FLOAT_BITS)
    if not given:
        if choices:
            raise QuantizationError("bits_choices is for target_size_mb or bits_per_weight. Give one of them too.")
        return ()
    if recipe.mode != "affine" or recipe.modules:
        raise QuantizationError(
            f"{next(iter(given))} chooses the bits of affine modules, and mode={recipe.mode!r} or modules sets them. "
            "Leave one of them out."
        )
    if any(type(bits) is not int or bits not in allowed for bits in choices):
        raise QuantizationError(f"bits_choices={choices!r}, expected some of {', '.join(map(str, allowed))}.")
    return tuple(sorted(set(choices))) or allowed
