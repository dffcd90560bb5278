"""`mlx-hf-bridge convert`: convert the models of a YAML file, or the one of --model, and print a table of results."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlx_hf_bridge.checkpoints.safetensors_file import MB
from mlx_hf_bridge.cli.command import did_you_mean
from mlx_hf_bridge.cli.console import listing, note, print_error, show, show_json, table
from mlx_hf_bridge.cli.models_file import ModelEntry, read_models
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.conversion.api import ConversionResult, convert, folder_name, short_name
from mlx_hf_bridge.errors import BridgeError, ConfigError
from mlx_hf_bridge.quantization.recipes import GROUP_SIZES, MLXQuantizationConfig, better_recipes

DEFAULT_CONFIG = "config/models.yaml"
# A wheel has the repository's file here (pyproject.toml).
_PACKAGED = Path(__file__).with_name("models.yaml")
# Where rounding alone fails the bounds of `verify` for small models (docs/quantization.md).
_FEW_BITS = 4
# Measured in docs/quantization.md.
_GAIN = ": for all-MiniLM-L6-v2 a mean cosine to the float model of 0.99 instead of 0.96"


@dataclass(frozen=True)
class Outcome:
    """A model and the result of its conversion; None if it failed."""

    name: str
    result: ConversionResult | None


def run(args: argparse.Namespace) -> int:
    """Convert the requested models and return 1 if any failed; one that fails does not stop the others."""
    entries = _entries(args)
    outcomes = [Outcome(entry.name, _try_convert(entry, args, len(entries) > 1)) for entry in entries]
    if args.json:
        show_json({"results": [_document(outcome) for outcome in outcomes]})
        return 0 if all(outcome.result for outcome in outcomes) else 1
    if args.dry_run and any(outcome.result for outcome in outcomes):
        show("Dry run: nothing was written.", "")
    show("\n\n".join(_describe(outcome) for outcome in outcomes if outcome.result or len(outcomes) > 1))
    for outcome in outcomes:
        if outcome.result and outcome.result.modules:
            rows = [(name, _width(width)) for name, width in outcome.result.modules.items()]
            show(table(f"Bits of the modules of {outcome.name}", ("module", "bits"), rows))
    return 0 if all(outcome.result for outcome in outcomes) else 1


def _entries(args: argparse.Namespace) -> list[ModelEntry]:
    """Return the models to convert: the entry that --model names, else --model itself, else all entries.

    Flags override the values of the file.
    """
    listed = read_models(_models_file(args)) if args.config or args.model is None else _default(args)
    chosen = [entry for entry in listed if args.model in (None, entry.name)]
    if listed and not chosen and "/" not in args.model and not Path(args.model).exists():
        near = did_you_mean(args.model, [entry.name for entry in listed])
        if near:
            raise ConfigError(f"the models file has no {args.model!r}{near} Give a name in it, a Hub id or a folder.")
    if args.model == "":
        raise ConfigError("--model is empty. Give a name from the config file, a Hub id or a folder.")
    return [_with_flags(entry, args) for entry in chosen or [ModelEntry(short_name(args.model), args.model)]]


def _models_file(args: argparse.Namespace) -> Path:
    """Return the file of --config, the one in the working directory, or else that of an installed package."""
    if args.config or Path(DEFAULT_CONFIG).is_file() or not _PACKAGED.is_file():
        return Path(args.config or DEFAULT_CONFIG)
    note(f"there is no {DEFAULT_CONFIG}, so the models of {_PACKAGED} are converted")
    return _PACKAGED


def _default(args: argparse.Namespace) -> list[ModelEntry]:
    """Return the entries of the default file, in which --model may be a name; [] if it is another program's."""
    path = Path(DEFAULT_CONFIG)
    # Names in the file have no "/".
    if "/" in args.model or not path.is_file():
        return []
    try:
        return read_models(path)
    except ConfigError:
        if f"name: {args.model}" in path.read_text(encoding="utf-8", errors="replace"):
            raise
        return []


def _with_flags(entry: ModelEntry, args: argparse.Namespace) -> ModelEntry:
    return replace(
        entry,
        task=args.task or entry.task,
        revision=args.revision or entry.revision,
        quantization=options_from_flags(args).with_defaults(entry.quantization),
        target_size_mb=args.target_size_mb or entry.target_size_mb,
    )


def _try_convert(entry: ModelEntry, args: argparse.Namespace, is_one_of_many: bool) -> ConversionResult | None:
    # MLX and the tokenizers raise plain RuntimeError and ValueError.
    try:
        return _convert(entry, args)
    except (BridgeError, OSError, RuntimeError, ValueError) as error:
        print_error(error, args.verbose or args.debug, f"{entry.name}: " if is_one_of_many else "")
        return None


def _convert(entry: ModelEntry, args: argparse.Namespace) -> ConversionResult:
    recipe, dtype = entry.quantization.resolve()
    folder = Path(args.output) if args.output else Path(args.output_dir) / folder_name(entry.name, recipe, dtype)
    return convert(
        entry.hf_name,
        folder,
        quantization_config=recipe,
        dtype=dtype,
        task=entry.task,
        revision=entry.revision,
        target_size_mb=entry.target_size_mb,
        dry_run=args.dry_run,
        show_progress=not args.quiet,
        overwrite=args.no_skip,
    )


def _describe(outcome: Outcome) -> str:
    result = outcome.result
    if result is None:
        return f"{outcome.name}: failed"
    size = result.weight_bytes or result.predicted_bytes or 0
    ratio = f", {result.source_bytes / size:.2f} times smaller" if size else ""
    facts = [
        ("bits", _bits(result.recipe)),
        ("predicted", _megabytes(result.predicted_bytes)),
        ("weights", _megabytes(result.weight_bytes)),
        ("source", f"{_megabytes(result.source_bytes)}{ratio}"),
        ("folder", str(result.folder)),
        ("advice", _advice(result.recipe)),
    ]
    return listing(f"{outcome.name}: {result.action}", facts)


def _document(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for JSON."""
    result = outcome.result
    if result is None:
        return {"name": outcome.name, "action": "failed"}
    recipe = result.recipe.to_dict() if result.recipe else None
    return {"name": outcome.name, **asdict(result), "folder": str(result.folder), "recipe": recipe}


def _advice(recipe: MLXQuantizationConfig | None) -> str:
    """Return which recipes keep more of a model's quality at its size, for few bits that are only rounded."""
    better = better_recipes(recipe) if recipe and recipe.bits <= _FEW_BITS else ()
    gain = _GAIN if recipe and recipe.bits == _FEW_BITS else ""
    return f"--recipe {' or '.join(better)} gives smaller errors at the same size{gain}" if better else ""


def _width(width: Mapping[str, int] | None) -> str:
    return "float" if width is None else f"{width['bits']} (groups of {width['group_size']})"


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / MB:.1f} MB"


def _bits(recipe: MLXQuantizationConfig | None) -> str:
    """Describe a recipe: "8", "4 (groups of 32)", "4 (mxfp4)"; "32" without quantization."""
    if recipe is None:
        return "32"
    if recipe.has_target:
        return "mixed"
    if recipe.mode != "affine":
        return f"{recipe.bits} ({recipe.mode})"
    is_default = recipe.group_size == GROUP_SIZES["affine"][0]
    return str(recipe.bits) if is_default else f"{recipe.bits} (groups of {recipe.group_size})"
