"""Quantization recipes: what `quantization_config` accepts, checked and turned into one `MLXQuantizationConfig`."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from mlx_hf_bridge.errors import QuantizationError
from mlx_hf_bridge.quantization.methods import AUTO, READS_TEXTS, bundled_texts, check_method, check_texts, text_digest
from mlx_hf_bridge.quantization.widths import (
    BITS,
    GROUP_SIZES,
    BitWidth,
    check_width,
    parse_modules,
    resolve_bits_choices,
)
from mlx_hf_bridge.runtime.boundary import guard_methods, guarded
from mlx_hf_bridge.runtime.environment import QUANTIZATION_VARIABLE, quantization_choice

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

BY_MODE = -1  # "the mode's default", like None; an int, so that the fields' type stays int
_TARGETS = ("target_size_mb", "bits_per_weight")


@guard_methods
@dataclass(frozen=True)
class MLXQuantizationConfig:
    """How a model's weights are quantized. Every field is optional.

    Linear layers and the token embedding table are quantized; norms, biases, position tables, poolers and heads stay
    in float. The file has MLX's own packing whatever the method, so that speed and size depend on bits and group_size
    alone.

    Args:
        bits: Bits of a weight: 2, 3, 4, 5, 6 or 8 in mode "affine" (default 4), 4 in "mxfp4" and "nvfp4", 8 in
            "mxfp8". -1 or None: the default.
        group_size: Consecutive input weights of a row that share a scale: 32, 64 or 128 in mode "affine" (default
            64), 32 in "mxfp4" and "mxfp8", 16 in "nvfp4". Smaller groups are more accurate and take more bytes: each
            affine group stores a scale and a bias (16 bits each in the default dtype). -1 or None: the default.
        mode: MLX's quantization mode: "affine" (integers with scale and bias; the default), "mxfp4", "mxfp8" or
            "nvfp4" (small floats with a shared scale).
        modules_to_not_convert: Module paths of the checkpoint, or their last parts ("output.dense"), that stay in
            float. Default: none.
        method: How the quantized values are found: "minmax" (mx.quantize's own rounding; the default),
            "least_squares" (scales and biases of least squared error, no data), "data_free" (as "gptq", on random
            words of the vocabulary), "gptq" (second-order rounding on calibration texts), "distill" ("gptq", then
            scales, biases and norms trained on the float model's outputs) or "auto" (the method of the recipe "q4":
            "gptq" on the bundled texts in less time, and "least_squares" for very large models). All but "minmax" need
            mode "affine".
        calibration_texts: 16 or more texts, better some hundreds, like those that the model will see; for "gptq" and
            "distill". None (the default) reads the texts that come with the package.
        seed: Seed of everything random in calibration, from 0 (the default) to 2^32 - 1.
        modules: Bits and groups by module where modules differ: {module path: {"bits": 5, "group_size": 32}}, or None
            as a value for float. Stored as sorted pairs. Default: none.
        target_size_mb: The most that the weights file may take, in MB of 2^20 bytes; bits and groups are then chosen
            for each module with the least predicted error, and `bits` is not read. Default: no target.
        bits_per_weight: A target like target_size_mb, as bits of a quantized weight, scales and biases included. Give
            one of the two.
        bits_choices: The bits that a target may choose from, of 2, 3, 4, 5, 6, 8 and 32 (float). Default: all.

    Raises:
        QuantizationError: If MLX does not pack these bits, groups or mode, or fields contradict each other.

    Example:
        >>> config = MLXQuantizationConfig(bits=4, group_size=32, method="gptq", calibration_texts=texts)
        >>> model = MLXSentenceTransformer("all-MiniLM-L6-v2", quantization_config=config)
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
        # type() and not isinstance: bool is a subclass of int.
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise QuantizationError(f"seed={self.seed!r}, expected an integer from 0 to 2^32 - 1.")
        self._set("modules", parse_modules(self.modules, self.mode))
        self._set("bits_choices", resolve_bits_choices(self))

    def _set(self, name: str, value: Any) -> None:
        # The way to set a field of a frozen dataclass while it is created.
        object.__setattr__(self, name, value)

    @property
    def has_target(self) -> bool:
        """Whether bits and groups are to be chosen for a size."""
        return any(getattr(self, name) is not None for name in _TARGETS)

    @property
    def is_calibrated(self) -> bool:
        """Whether calibration texts are read, to round weights or to choose bits."""
        return self.method in (AUTO, *READS_TEXTS) or (self.has_target and self.method != "data_free")

    @property
    def texts(self) -> tuple[str, ...]:
        """The calibration texts: the user's, or those that come with the package."""
        return bundled_texts() if self.calibration_texts is None else self.calibration_texts

    def for_module(self, module: str) -> Self | None:
        """Return the recipe of one module.

        Args:
            module: A module path of the checkpoint, such as "encoder.layer.0.output.dense".

        Returns:
            This recipe, with the module's own bits and group size where `modules` has them; None if it stays in float.
        """
        if self.skips(module):
            return None
        for name, width in self.modules:
            if names_module(name, module):
                return None if width is None else replace(self, bits=width.bits, group_size=width.group_size)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as a dict for JSON, as conversion_metadata.json stores it.

        Returns:
            bits, group_size, mode and modules_to_not_convert always; other fields where they are not the default.
            Calibration texts are stored as a hash, under "calibration".
        """
        found = {**asdict(self), "modules_to_not_convert": list(self.modules_to_not_convert)}
        found["modules"] = {name: width and asdict(width) for name, width in self.modules}
        found["bits_choices"] = list(self.bits_choices)
        # Fields at their defaults are left out, so that identities of older conversions stay valid when a field is
        # added.
        for spec in fields(self)[4:]:
            if spec.default is not MISSING and getattr(self, spec.name) == spec.default:
                del found[spec.name]
        # Texts may be large; their hash is enough to tell two recipes apart.
        found.pop("calibration_texts", None)
        if self.is_calibrated:
            found["calibration"] = text_digest(self.texts)
        return found

    def skips(self, module: str) -> bool:
        """Whether a module stays in float by `modules_to_not_convert`.

        Args:
            module: A module path of the checkpoint.

        Returns:
            True if one of the names means this module.
        """
        return any(names_module(name, module) for name in self.modules_to_not_convert)


@guarded
def names_module(name: str, module: str) -> bool:
    """Whether a name given by a user means a module path.

    Args:
        name: The whole path, its last parts ("output.dense"), or the path with a prefix ("bert.encoder...").
        module: A module path of the checkpoint.

    Returns:
        True if the name means the module.
    """
    # The leading dot makes names match whole components: "out" means "attention.out" and not "layout".
    return f".{module}".endswith(f".{name}") or name.endswith(f".{module}")


# Measured on a real model in docs/quantization.md. 4.5 bits a weight are those of "q4": 4, and 16 + 16 for each 64.
RECIPES: dict[str, MLXQuantizationConfig] = {
    **{f"q{bits}": MLXQuantizationConfig(bits=bits) for bits in sorted(BITS["affine"], reverse=True)},
    "mxfp8": MLXQuantizationConfig(mode="mxfp8"),
    "mxfp4": MLXQuantizationConfig(mode="mxfp4"),
    "nvfp4": MLXQuantizationConfig(mode="nvfp4"),
    # "q4-rtn" rounds to nearest, as mlx-lm does, which in 4 bits moves embeddings too far for many uses. So "q4" is not
    # plain rounding, as the names of more bits are.
    "q4": MLXQuantizationConfig(bits=4, method=AUTO),
    "q4-rtn": MLXQuantizationConfig(bits=4),
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
    """Return the config that a `quantization_config` argument means.

    Args:
        given: A recipe's name ("q8"), the path of a JSON file (a recipe, or a converted folder's
            conversion_metadata.json), a dict of MLXQuantizationConfig's fields, a config, or None.

    Returns:
        The config, or None for no quantization.

    Raises:
        QuantizationError: If the name is no recipe, the file cannot be read, or a field is unknown or impossible.
    """
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


def recipe_of_environment() -> MLXQuantizationConfig | None:
    """Return the recipe that MLX_HF_BRIDGE_QUANTIZATION names, for zero-change mode.

    Returns:
        The recipe; None if the variable is not set.

    Raises:
        QuantizationError: If it names no recipe.
    """
    choice = quantization_choice()
    try:
        return recipe_from(choice)
    except QuantizationError as error:
        raise QuantizationError(f"{QUANTIZATION_VARIABLE}={choice!r} cannot be used: {error}") from error


def _from_file(path: Path) -> MLXQuantizationConfig:
    """Read a recipe's dict from JSON, or a converted folder's metadata: its recipe with the bits that were chosen."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise QuantizationError(f"{path} cannot be read as JSON ({error}). Give a recipe's file.") from error
    if not isinstance(content, Mapping) or not isinstance(content.get("recipe", {}), Mapping):
        raise QuantizationError(f"{path} holds no recipe. Give a recipe's dict, or a packed folder's metadata file.")
    recipe = dict(content.get("recipe", content))
    # The chosen bits replace the target they were chosen for: with both, bits would be chosen again.
    if "plan" in content:
        kept = {key: recipe[key] for key in ("method", "seed") if key in recipe}
        recipe = {**kept, "modules": content["plan"]}
    return _from_dict(recipe)


def _from_dict(given: Mapping[str, Any]) -> MLXQuantizationConfig:
    """Build a config from a user's dict or `to_dict`'s; a hash of texts other than the bundled ones is refused."""
    known = MLXQuantizationConfig.__dataclass_fields__
    unknown = sorted(set(given) - set(known) - {"calibration"})
    if unknown:
        raise QuantizationError(
            f"quantization_config has the keys {unknown}, which are not known; use {', '.join(known)}."
        )
    recipe = MLXQuantizationConfig(**{key: value for key, value in given.items() if key != "calibration"})
    if "calibration" in given and recipe.to_dict().get("calibration") != given["calibration"]:
        raise QuantizationError(
            f"quantization_config has calibration={given['calibration']!r}, the hash of texts that are not available. "
            "Leave it out, and give calibration_texts for texts of your own."
        )
    return recipe


def noted_recipe(noted: Mapping[str, Any]) -> MLXQuantizationConfig:
    """Return the recipe that a converted folder was made with, without its calibration texts, which are not stored.

    Args:
        noted: The recipe in the folder's metadata, as `to_dict` writes it.

    Returns:
        The recipe.

    Raises:
        QuantizationError: If a field is impossible.
    """
    known = MLXQuantizationConfig.__dataclass_fields__
    return MLXQuantizationConfig(**{key: value for key, value in noted.items() if key in known})


def describe_recipe(noted: Mapping[str, Any], bits: str) -> str:
    """Describe the recipe that a converted folder was made with.

    Args:
        noted: The recipe in the folder's metadata, as `to_dict` writes it.
        bits: The bits and groups of the folder's weights, in words.

    Returns:
        The recipe's name with its bits, method and texts: "q4-best: 4 bits in groups of 64, affine; gptq with the
        bundled texts".

    Raises:
        QuantizationError: If a field is impossible.
    """
    recipe = noted_recipe(noted)
    method = f"; {recipe.method}" if recipe.method not in ("minmax", AUTO) else ""
    if recipe.is_calibrated and recipe.method != AUTO:
        # The texts themselves are not stored; `to_dict` of a recipe without texts has the hash of the bundled ones.
        is_bundled = noted.get("calibration") == recipe.to_dict()["calibration"]
        method += f" with {'the bundled texts' if is_bundled else 'custom texts'}"
    return f"{recipe_name(recipe)}: {bits}{method}"


def better_recipes(recipe: MLXQuantizationConfig) -> tuple[str, ...]:
    """Return the recipes that give weights of the same size with smaller errors.

    Args:
        recipe: The recipe of a converted model.

    Returns:
        Names of recipes, the most accurate last; empty if `recipe` is calibrated, or there is no better one.
    """
    if recipe.method not in ("minmax", AUTO) or recipe.mode != "affine" or recipe.modules or recipe.has_target:
        return ()
    names = (f"q{recipe.bits}", f"q{recipe.bits}-best", f"mixed-{recipe.bits}")
    return tuple(name for name in names if name in RECIPES and RECIPES[name].method != recipe.method)


@guarded
def recipe_name(recipe: MLXQuantizationConfig | None) -> str:
    """Return a short name for folders and tables.

    Args:
        recipe: A config, or None for float weights.

    Returns:
        The recipe's own name ("q8", "q4-best"), else one made of its fields ("q4-g32"); "float" for None.
    """
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
    # A number of bits by itself means the method of the recipe of that name.
    method = "rtn" if recipe.method == "minmax" else recipe.method.replace("_", "-")
    suffix += "" if recipe.method == RECIPES[f"q{recipe.bits}"].method else f"-{method}"
    return f"q{recipe.bits}{suffix}"
