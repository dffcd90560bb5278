"""What a user may ask of `quantization_config`, made into one checked recipe."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization.methods import READS_TEXTS, bundled_texts, check_method, check_texts, text_digest
from mlx_hf_bridge.quantization.widths import (
    BITS,
    GROUP_SIZES,
    BitWidth,
    check_width,
    parse_modules,
    resolve_bits_choices,
)

__all__ = [
    "BITS",
    "BY_MODE",
    "GROUP_SIZES",
    "RECIPES",
    "MLXQuantizationConfig",
    "QuantizationLike",
    "names_module",
    "recipe_from",
    "recipe_name",
]

BY_MODE = -1  # "the mode's default"; None says the same
_SIZES = ("target_size_mb", "bits_per_weight")


@dataclass(frozen=True)
class MLXQuantizationConfig:
    """How weights are packed. Defaults follow the mode: affine 4 bits in groups of 64, mxfp 32, nvfp4 16.

    modules_to_not_convert: checkpoint module paths (or their last parts) that stay in float.
    method: "minmax" (mx.quantize's own), "least_squares" (no data), "gptq" or "distill", which read
    calibration_texts (None: texts that come with the package); seed: of the order that "distill" reads them in.
    modules: {module path: {"bits": 5, "group_size": 32}, or None for float} where modules differ.
    target_size_mb (of the weights file, 1 MB = 2^20 bytes) or bits_per_weight (scales and biases included): bits and
    groups are chosen for each module to meet it; bits_choices: of which (32 is float); `bits` is not read then.
    Raises QuantizationError for bits, group sizes or modes that MLX does not pack.
    """

    bits: int = BY_MODE
    group_size: int = BY_MODE
    mode: str = "affine"
    modules_to_not_convert: tuple[str, ...] = ()
    method: str = "minmax"
    calibration_texts: tuple[str, ...] | None = None
    seed: int = 0
    modules: tuple[tuple[str, BitWidth | None], ...] = ()
    target_size_mb: float | None = None
    bits_per_weight: float | None = None
    bits_choices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.mode, str) or self.mode not in BITS:
            raise QuantizationError(f"mode={self.mode!r} is not packed by MLX; use one of {', '.join(BITS)}.")
        for name, table in (("bits", BITS), ("group_size", GROUP_SIZES)):
            value = getattr(self, name)
            given = table[self.mode][0] if value is None or value == BY_MODE else value
            self._set(name, check_width(name, given, self.mode))
        names: Any = self.modules_to_not_convert or ()
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise QuantizationError(f"modules_to_not_convert={names!r}, expected a list of module names.")
        self._set("modules_to_not_convert", tuple(names))
        self._set("method", check_method(self.method, self.mode))
        self._set("calibration_texts", check_texts(self.calibration_texts, self.method))
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise QuantizationError(f"seed={self.seed!r}, expected a whole number from 0 to 2^32 - 1.")
        self._set("modules", parse_modules(self.modules, self.mode))
        self._set("bits_choices", resolve_bits_choices(self))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def has_target(self) -> bool:
        """Whether bits and groups are yet to be chosen."""
        return any(getattr(self, name) is not None for name in _SIZES)

    @property
    def is_calibrated(self) -> bool:
        """Whether texts are read to find codes or to choose bits."""
        return self.method in READS_TEXTS or (self.has_target and self.method != "data_free")

    @property
    def texts(self) -> tuple[str, ...]:
        """The calibration texts that are read."""
        return bundled_texts() if self.calibration_texts is None else self.calibration_texts

    def for_module(self, module: str) -> Self | None:
        """The recipe of one checkpoint module; None where it stays in float."""
        if self.skips(module):
            return None
        for name, width in self.modules:
            if names_module(name, module):
                return None if width is None else replace(self, bits=width.bits, group_size=width.group_size)
        return self

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the packing with every default filled in, the rest where it is not the default; texts by hash."""
        found = {**asdict(self), "modules_to_not_convert": list(self.modules_to_not_convert)}
        found["modules"] = {name: width and asdict(width) for name, width in self.modules}
        found["bits_choices"] = list(self.bits_choices)
        for spec in fields(self)[4:]:
            if spec.default is not MISSING and getattr(self, spec.name) == spec.default:
                del found[spec.name]
        found.pop("calibration_texts", None)
        if self.is_calibrated:
            found["calibration"] = text_digest(self.texts)
        return found

    def skips(self, module: str) -> bool:
        """Whether a checkpoint module path is one of `modules_to_not_convert`."""
        return any(names_module(name, module) for name in self.modules_to_not_convert)


def names_module(name: str, module: str) -> bool:
    """Whether a name means a module path: the path, its last parts, or the path behind a prefix ("bert.")."""
    return f".{module}".endswith(f".{name}") or name.endswith(f".{module}")


# Their fidelity on a real model: docs/quantization.md. The bits_per_weight of "mixed-4" are those of "q4".
RECIPES: dict[str, MLXQuantizationConfig] = {
    **{f"q{bits}": MLXQuantizationConfig(bits=bits) for bits in sorted(BITS["affine"], reverse=True)},
    "mxfp8": MLXQuantizationConfig(mode="mxfp8"),
    "mxfp4": MLXQuantizationConfig(mode="mxfp4"),
    "nvfp4": MLXQuantizationConfig(mode="nvfp4"),
    "q4-fit": MLXQuantizationConfig(bits=4, method="least_squares"),
    "q4-free": MLXQuantizationConfig(bits=4, method="data_free"),
    "q8-best": MLXQuantizationConfig(bits=8, method="gptq"),
    "q6-best": MLXQuantizationConfig(bits=6, method="gptq"),
    "q5-best": MLXQuantizationConfig(bits=5, method="gptq"),
    "q4-best": MLXQuantizationConfig(bits=4, method="gptq"),
    "q3-best": MLXQuantizationConfig(bits=3, method="gptq"),
    "mixed-4": MLXQuantizationConfig(bits_per_weight=4.5, method="gptq"),
    "mixed-4-8": MLXQuantizationConfig(bits_per_weight=6.0, bits_choices=(4, 5, 6, 8), method="gptq"),
}

QuantizationLike = MLXQuantizationConfig | Mapping[str, Any] | str | None


def recipe_from(given: QuantizationLike) -> MLXQuantizationConfig | None:
    """A recipe's name or JSON file, a dict of its fields, a config or None -> the config or None (no quantisation)."""
    if given is None or isinstance(given, MLXQuantizationConfig):
        return given
    if isinstance(given, str):
        if given.endswith(".json"):
            return _from_file(Path(given).expanduser())
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
    return _from_dict(given)


def _from_file(path: Path) -> MLXQuantizationConfig:
    """A recipe's dict in a file, or a converted folder's metadata: its recipe with the widths that were chosen."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QuantizationError(f"{path} cannot be read as JSON ({error}). Give a recipe's file.") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("recipe", {}), Mapping):
        raise QuantizationError(f"{path} holds no recipe. Give a recipe's dict, or a packed folder's metadata file.")
    recipe = dict(content.get("recipe", content))
    if "plan" in content:
        kept = {key: recipe[key] for key in ("method", "seed") if key in recipe}
        recipe = {**kept, "modules": content["plan"]}
    return _from_dict(recipe)


def _from_dict(given: Mapping[str, Any]) -> MLXQuantizationConfig:
    """A dict as a user or `to_dict` makes it; texts other than the bundled ones cannot come back from their hash."""
    known = MLXQuantizationConfig.__dataclass_fields__
    unknown = sorted(set(given) - set(known) - {"calibration"})
    if unknown:
        raise QuantizationError(
            f"quantization_config has the keys {unknown}, which are not known; use {', '.join(known)}."
        )
    recipe = MLXQuantizationConfig(**{key: value for key, value in given.items() if key != "calibration"})
    if "calibration" in given and recipe.to_dict().get("calibration") != given["calibration"]:
        raise QuantizationError(
            f"quantization_config has calibration={given['calibration']!r}, the hash of texts that are not at hand. "
            "Leave it out, and give calibration_texts for texts of your own."
        )
    return recipe


def recipe_name(recipe: MLXQuantizationConfig | None) -> str:
    """A short name for folders and tables: "q8", "q4-g32", "mxfp4", "q4-best"; "float" for no quantisation."""
    if recipe is None:
        return "float"
    named = next((name for name, known in RECIPES.items() if known == recipe), None)
    if named is not None or recipe.mode != "affine":
        return named or recipe.mode
    if recipe.target_size_mb is not None:
        return f"mixed-{recipe.target_size_mb:g}mb"
    if recipe.bits_per_weight is not None:
        return f"mixed-{recipe.bits_per_weight:g}bpw"
    suffix = "" if recipe.group_size == GROUP_SIZES["affine"][0] else f"-g{recipe.group_size}"
    suffix += "-plan" if recipe.modules else ""
    suffix += "" if recipe.method == "minmax" else f"-{recipe.method.replace('_', '-')}"
    return f"q{recipe.bits}{suffix}"
