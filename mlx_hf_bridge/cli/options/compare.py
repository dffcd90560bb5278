"""Options of `mlx-hf-bridge compare`."""

import argparse

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_SIZE, OneOf
from mlx_hf_bridge.cli.options.shared import RECIPE, model_argument


def _check(args: argparse.Namespace) -> str | None:
    return None if len(set(args.recipes)) > 1 else "give two or more different recipes, such as q8 q4-best"


command = Command(
    "compare",
    "Compare quantization recipes of one model with the float model.",
    [
        model_argument(help="The float checkpoint: a Hub id or a folder."),
        Argument("recipes", "Recipes to compare, such as q8 q4-best mixed-4.", metavar="RECIPE", nargs=-1, type=RECIPE),
        Option("--size-mb", type=POSITIVE_SIZE, metavar="N", help="Name the best whose weights take at most N MB."),
        Option("--texts", metavar="FILE", help="Texts to compare on, one per line. Default: bundled texts."),
        Option(
            "--task",
            type=OneOf(("embedding", "classification")),
            metavar="TASK",
            help="embedding or classification. Default: by config.json.",
        ),
        Option("--picture", metavar="FILE.svg", help="Draw sizes and mean cosines."),
        Option("--html", metavar="FILE", help="Write a report with pictures."),
        json_option("a table"),
    ],
    """\
  mlx-hf-bridge compare BAAI/bge-small-en-v1.5 q8 q6 q4-best mixed-4
  mlx-hf-bridge compare ./my-model q8 q4 q4-best --size-mb 20 --picture s.svg

Each recipe is converted into the cache. The exit code is 1 if nothing is small
enough.""",
    _check,
)
