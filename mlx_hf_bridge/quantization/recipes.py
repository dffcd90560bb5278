"""What a user may ask of `quantization_config`, made into one checked recipe."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlx_hf_bridge.errors import QuantizationError

# MLX's own table (mx.quantize): mode -> group sizes and bits it packs; the first of each is the default.
GROUP_SIZES = {"affine": (64, 32, 128), "mxfp4": (32,), "mxfp8": (32,), "nvfp4": (16,)}
BITS = {"affine": (4, 2, 3, 5, 6, 8), "mxfp4": (4,), "mxfp8": (8,), "nvfp4": (4,)}

BY_MODE = -1  # "the mode's default"; None says the same


@dataclass(frozen=True)
class MLXQuantizationConfig:
    """How weights are packed. Defaults follow the mode: affine 4 bits in groups of 64, mxfp 32, nvfp4 16.

    modules_to_not_convert: checkpoint module paths (or their last parts) that stay in float.
    Raises QuantizationError for bits, group sizes or modes that MLX does not pack.
    """

    bits: int = BY_MODE
    group_size: int = BY_MODE
    mode: str = "affine"
    modules_to_not_convert: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in BITS:
            raise QuantizationError(f"mode={self.mode!r} is not packed by MLX; use one of {', '.join(BITS)}.")
        for name, table in (("bits", BITS), ("group_size", GROUP_SIZES)):
            value, allowed = getattr(self, name), table[self.mode]
            if value is None or value == BY_MODE:
                object.__setattr__(self, name, allowed[0])
            elif type(value) is not int or value not in allowed:
                raise QuantizationError(
                    f"{name}={value!r} is not packed by MLX in mode {self.mode!r}; "
                    f"use {' or '.join(str(number) for number in sorted(allowed))}."
                )
        names: Any = self.modules_to_not_convert or ()
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise QuantizationError(f"modules_to_not_convert={names!r}, expected a list of module names.")
        object.__setattr__(self, "modules_to_not_convert", tuple(names))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with every default filled in."""
        return {**asdict(self), "modules_to_not_convert": list(self.modules_to_not_convert)}

    def skips(self, module: str) -> bool:
        """Whether a checkpoint module path is one of `modules_to_not_convert`."""
        return any(names_module(name, module) for name in self.modules_to_not_convert)


def names_module(name: str, module: str) -> bool:
    """Whether a name means a module path: the path, its last parts, or the path behind a prefix ("bert.")."""
    return f".{module}".endswith(f".{name}") or name.endswith(f".{module}")


RECIPES: dict[str, MLXQuantizationConfig] = {
    **{f"q{bits}": MLXQuantizationConfig(bits=bits) for bits in sorted(BITS["affine"], reverse=True)},
    "mxfp8": MLXQuantizationConfig(mode="mxfp8"),
    "mxfp4": MLXQuantizationConfig(mode="mxfp4"),
    "nvfp4": MLXQuantizationConfig(mode="nvfp4"),
}

QuantizationLike = MLXQuantizationConfig | Mapping[str, Any] | str | None


def recipe_from(given: QuantizationLike) -> MLXQuantizationConfig | None:
    """A recipe's name, a dict of its fields, a config or None -> the config or None (no quantisation)."""
    if given is None or isinstance(given, MLXQuantizationConfig):
        return given
    if isinstance(given, str):
        if given not in RECIPES:
            raise QuantizationError(
                f"quantization_config={given!r} is not a recipe; use one of {', '.join(RECIPES)}, or "
                "MLXQuantizationConfig(bits=..., group_size=..., mode=...)."
            )
        return RECIPES[given]
    if not isinstance(given, Mapping):
        raise QuantizationError(
            f"quantization_config is a {type(given).__name__}, expected a recipe's name ({', '.join(RECIPES)}), "
            "a dict, an MLXQuantizationConfig or None."
        )
    unknown = sorted(set(given) - set(MLXQuantizationConfig.__dataclass_fields__))
    if unknown:
        raise QuantizationError(
            f"quantization_config has the keys {unknown}, which are not known; "
            f"use {', '.join(MLXQuantizationConfig.__dataclass_fields__)}."
        )
    return MLXQuantizationConfig(**given)


def recipe_name(recipe: MLXQuantizationConfig | None) -> str:
    """A short name for folders and tables: "q8", "q4-g32", "mxfp4"; "float" for no quantisation."""
    if recipe is None:
        return "float"
    if recipe.mode != "affine":
        return recipe.mode
    suffix = "" if recipe.group_size == GROUP_SIZES["affine"][0] else f"-g{recipe.group_size}"
    return f"q{recipe.bits}{suffix}"
