"""Options of `mlx-hf-bridge qa`."""

import argparse

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT
from mlx_hf_bridge.cli.options.shared import (
    model_argument,
    quantization_error,
    quantization_options,
    revision_option,
    text_error,
)


def _check(args: argparse.Namespace) -> str | None:
    return quantization_error(args) or text_error(args)


command = Command(
    "qa",
    "Answer a question by a part of a text (extractive).",
    [
        model_argument(help="A question answering model: a Hub id or a folder."),
        Argument("question", "The question."),
        Argument("text", "The text. Default: read from stdin.", metavar="TEXT", nargs=-1, required=False),
        Option("--file", metavar="FILE", help="Read the text from a file. - is stdin."),
        Option("--top-k", type=POSITIVE_COUNT, default=1, metavar="N", help="The best N answers. Default: 1."),
        revision_option(),
        json_option("a listing"),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge qa deepset/roberta-base-squad2 "Where does she live?" \\
      "My friend Lena moved to Oslo last year."
  mlx-hf-bridge qa deepset/roberta-base-squad2 "Who wrote it?" --file book.txt""",
    _check,
)
