"""The program `mlx-hf-bridge`: the table of its commands, and what the words of a command line mean."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from mlx_hf_bridge.cli import completion
from mlx_hf_bridge.cli.command import PROGRAM, Group, Option, load_command
from mlx_hf_bridge.version import __version__

_WRONG_USAGE = 2
# A command is a line here, its options in options/NAME.py and its work in NAME.py (docs/architecture.md).
SECTIONS = {
    "Use a model": {
        "search": "Search a folder of your text files by meaning",
        "encode": "Compute the embeddings of texts",
        "embed": "Embed the texts of files, on one machine or many",
        "rerank": "Order texts by how well they answer a query",
        "classify": "Classify texts by the model's labels, or by your own",
        "ner": "Find the names and terms in texts",
        "qa": "Answer a question by a part of a text",
        "fill-mask": "Fill in the missing words of texts",
        "serve": "Answer requests over HTTP",
    },
    "Convert and compare": {
        "convert": "Convert models to folders with low-bit weights",
        "inspect": "Show what a model is and what works with it",
        "verify": "Compare converted models with their float originals",
        "compare": "Compare quantization recipes of one model",
        "bench": "Measure once how fast a model is on this machine",
        "push": "Upload a converted folder to the Hub",
        "export-metal": "Export a converted folder for transformers",
    },
    "This installation": {
        "demo": "Run a small search with a real model in 8 bits",
        "models": "List the supported model types and their heads",
        "cache": "List, verify, prune and remove converted models",
        "doctor": "Show what this machine computes with, and advice",
        "selfcheck": "Check that this machine's device computes right results",
    },
}
_EXAMPLES = """\
  mlx-hf-bridge demo
  mlx-hf-bridge convert BAAI/bge-small-en-v1.5 --recipe q8
  mlx-hf-bridge encode sentence-transformers/all-MiniLM-L6-v2 "a text" "another"
  mlx-hf-bridge classify typeform/distilbert-base-uncased-mnli "What a match!" \\
      --labels sport,politics

Models are given as a Hub id or a folder. Set MLX_HF_BRIDGE_CACHE to move the
cache of converted models. See `mlx-hf-bridge COMMAND --help` for a command."""


def program() -> Group:
    """Return the program with all its commands, of which none is imported yet."""
    options: list[click.Parameter] = [
        Option(
            "--version",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Print the version.",
        ),
        *completion.options(),
    ]
    load = partial(load_command, f"{__package__}.options")
    return Group(PROGRAM, "Hugging Face encoder models on MLX.", SECTIONS, load, options, _EXAMPLES)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command line.

    Args:
        arguments: The words after the program's name; None reads those of this process.

    Returns:
        The parsed arguments, with `command`, its name, and `words`, all that was typed.

    Raises:
        SystemExit: With 0 after --help and the like, and with 2 after one line on stderr if the words are wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    root = program()
    try:
        with root.make_context(PROGRAM, list(words)) as context:
            found: argparse.Namespace = root.invoke(context)
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.message}\n")
        raise SystemExit(_WRONG_USAGE) from None
    except click.UsageError as error:
        sys.stderr.write(_usage_error(error))
        raise SystemExit(_WRONG_USAGE) from None
    except click.exceptions.Exit as stopped:
        raise SystemExit(stopped.exit_code) from None
    found.words = words
    return found


def _usage_error(error: click.UsageError) -> str:
    message = " ".join(_plain(error).split())
    path = error.ctx.command_path if error.ctx else PROGRAM
    return f"error: {message}\nsee `{path} --help`\n"


def _plain(error: click.UsageError) -> str:
    """Return the message as this package writes its errors: without capitals, a dot, or click's "Invalid value"."""
    if isinstance(error, click.MissingParameter) and error.param is not None and error.ctx is not None:
        return f"{error.param.make_metavar(error.ctx)} is missing"
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = error.param.opts[0] if isinstance(error.param, click.Option) else error.param.human_readable_name
        return f"{name}: {error.message}"
    message = error.format_message().rstrip(".")
    return message[:1].lower() + message[1:]


def _show_version(context: click.Context, option: click.Parameter, given: Any) -> None:
    if given and not context.resilient_parsing:
        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        context.exit()
