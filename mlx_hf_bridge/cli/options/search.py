"""Options of `mlx-hf-bridge search`."""

import argparse

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT
from mlx_hf_bridge.cli.options.shared import recipe_option, revision_option


def _check(args: argparse.Namespace) -> str | None:
    if not args.query and not args.update_only:
        return "there is no query; give what to look for, or --update-only"
    return None


command = Command(
    "search",
    "Search a folder of your text, Markdown and PDF files by meaning.",
    [
        Argument("folder", "The folder; folders in it count, except hidden ones."),
        Argument("query", "What to look for; words are joined by spaces.", nargs=-1, required=False),
        Option("--top-k", type=POSITIVE_COUNT, default=5, metavar="N", help="The best N passages. Default: 5."),
        Option(
            "--model", metavar="MODEL", help="The embedding model. Default: that of the index, else all-MiniLM-L6-v2."
        ),
        recipe_option("Its quantization. Default: that of the index, else q8."),
        revision_option(),
        Option("--index", metavar="FILE", help="The index file. Default: one in the cache, named after the folder."),
        Option("--no-update", is_flag=True, help="Search the index as it is, without looking at the files."),
        Option("--update-only", is_flag=True, help="Bring the index up to date, search nothing."),
        json_option(),
    ],
    """\
  mlx-hf-bridge search ~/notes how long does dough have to rise
  mlx-hf-bridge search ~/notes "what did we decide about prices?" --top-k 10
  mlx-hf-bridge search ./docs --update-only --model BAAI/bge-small-en-v1.5

The first search reads all files; later ones only what has changed. PDF files
need the extra `pdf`: pip install 'mlx-hf-bridge[pdf]'.""",
    _check,
)
