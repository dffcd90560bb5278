"""Options of `mlx-hf-bridge classify`."""

import argparse

from mlx_hf_bridge.cli.command import Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT
from mlx_hf_bridge.cli.options.shared import (
    batch_option,
    model_argument,
    quantization_options,
    revision_option,
    text_parameters,
    texts_and_quantization_error,
)


def _check(args: argparse.Namespace) -> str | None:
    if message := texts_and_quantization_error(args):
        return message
    if args.labels is None and (args.multi_label or args.hypothesis_template):
        return "--multi-label and --hypothesis-template are for zero-shot classification; give --labels a,b,c too"
    return None


command = Command(
    "classify",
    "Classify texts by the model's labels, or (zero-shot) by your own.",
    [
        model_argument(),
        *text_parameters(),
        Option("--labels", metavar="A,B,C", help="Your own labels (zero-shot; needs an NLI model)."),
        Option("--multi-label", is_flag=True, help="Score each label by itself."),
        Option("--hypothesis-template", metavar="T", help='Default: "This example is {}."'),
        Option("--top-k", type=POSITIVE_COUNT, metavar="N", help="The best N labels of each text. Default: all."),
        batch_option(),
        revision_option(),
        json_option("a table"),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge classify ./my-sentiment-model "A fine film."
  mlx-hf-bridge classify typeform/distilbert-base-uncased-mnli "What a match!" \\
      --labels sport,politics,science
  cat texts.txt | mlx-hf-bridge classify ./my-classifier --top-k 1 --json""",
    _check,
)
