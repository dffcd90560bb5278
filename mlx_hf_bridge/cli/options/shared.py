"""Options that several commands have: the model, its quantization, texts."""

import argparse
import sys

import click

from mlx_hf_bridge.cli.command import Argument, Option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT, POSITIVE_SIZE, OneOf
from mlx_hf_bridge.quantization.methods import METHODS
from mlx_hf_bridge.quantization.recipes import BITS, RECIPES

FLOAT_BITS = 32
BITS_CHOICES = (*sorted(BITS["affine"]), FLOAT_BITS)
STORAGE_DTYPES = ("float16", "bfloat16")
RECIPE = OneOf(list(RECIPES), "a .json file", ".json")
_QUANTIZATION = "Quantization"


def model_argument(name: str = "model", help: str = "A Hub id or a folder.", nargs: int = 1) -> Argument:
    """Return the argument that names the model.

    Args:
        name: Its name in the parsed arguments.
        help: What it is.
        nargs: -1 for one or more.

    Returns:
        The argument.
    """
    return Argument(name, help, metavar="MODEL", nargs=nargs, required=True)


def revision_option() -> Option:
    """Return the option --revision."""
    return Option("--revision", metavar="REV", help="Branch, tag or commit on the Hub.")


def batch_option() -> Option:
    """Return the option --batch-size."""
    return Option("--batch-size", type=POSITIVE_COUNT, default=32, metavar="N", help="Texts per batch. Default: 32.")


def recipe_option(help: str = "A quantization recipe, such as q8 or q4-best; or a JSON file.") -> Option:
    """Return the option --recipe.

    Args:
        help: What it does.

    Returns:
        The option.
    """
    return Option("--recipe", type=RECIPE, metavar="NAME", group=_QUANTIZATION, help=help)


def quantization_options(default: str) -> list[click.Parameter]:
    """Return the options that say how weights are stored.

    Args:
        default: What happens without them, for the help page.

    Returns:
        The options.
    """
    group = _QUANTIZATION
    return [
        recipe_option(f"One of {', '.join(RECIPES)}; or a JSON file. Default: {default}."),
        Option(
            "--bits",
            type=OneOf(BITS_CHOICES),
            metavar="N",
            group=group,
            help=f"Bits per weight: {', '.join(map(str, BITS_CHOICES))}; 32 is no quantization.",
        ),
        Option(
            "--group-size",
            type=POSITIVE_COUNT,
            metavar="N",
            group=group,
            help="Weights that share a scale: 32, 64 or 128.",
        ),
        Option("--mode", type=OneOf(list(BITS)), metavar="MODE", group=group, help=f"MLX's format: {', '.join(BITS)}."),
        Option(
            "--method",
            type=OneOf(METHODS),
            metavar="NAME",
            group=group,
            help=f"How values are rounded: {', '.join(METHODS)}. The last two read texts.",
        ),
        Option(
            "--calibration-texts",
            metavar="FILE",
            group=group,
            help="Texts for calibration, one per line. Default: bundled texts.",
        ),
        Option(
            "--bits-per-weight",
            type=POSITIVE_SIZE,
            metavar="N",
            group=group,
            help="Choose bits for each module to reach this mean.",
        ),
        Option(
            "--dtype",
            type=OneOf(STORAGE_DTYPES),
            metavar="DTYPE",
            group=group,
            help="float16 (default) or bfloat16, for weights that are not quantized.",
        ),
    ]


def text_parameters(name: str = "text") -> list[click.Parameter]:
    """Return the texts of a command: arguments, a file, or standard input.

    Args:
        name: The argument's name in the parsed arguments.

    Returns:
        The parameters.
    """
    return [
        Argument(name, "Texts. Default: read from stdin, one per line.", metavar="TEXT", nargs=-1, required=False),
        Option("--file", metavar="FILE", help="Read the texts from a file, one per line, blank ones too. - is stdin."),
    ]


def quantization_error(args: argparse.Namespace) -> str | None:
    """Return what contradicts a recipe, or None.

    Args:
        args: The parsed arguments.

    Returns:
        The message.
    """
    flags = ("bits", "mode", "group_size")
    conflicting = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag, None) is not None]
    if getattr(args, "recipe", None) and conflicting:
        return f"--recipe {args.recipe} already sets the quantization; leave out {', '.join(conflicting)}, or --recipe"
    return None


def text_error(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the texts, or None.

    Args:
        args: The parsed arguments.

    Returns:
        The message.
    """
    if args.text and args.file:
        return "texts were given both as arguments and with --file; give them one way"
    if not args.text and not args.file and (sys.stdin is None or sys.stdin.isatty()):
        return "no texts; give them as arguments, with --file, or piped into stdin"
    return None


def texts_and_quantization_error(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the texts or the quantization, or None.

    Args:
        args: The parsed arguments.

    Returns:
        The message.
    """
    return quantization_error(args) or text_error(args)
