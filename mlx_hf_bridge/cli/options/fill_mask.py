"""Options of `mlx-hf-bridge fill-mask`."""

from mlx_hf_bridge.cli.command import Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT
from mlx_hf_bridge.cli.options.shared import (
    model_argument,
    quantization_options,
    revision_option,
    text_parameters,
    texts_and_quantization_error,
)

command = Command(
    "fill-mask",
    "Fill in the missing words of texts.",
    [
        model_argument(help="A masked language model: a Hub id or a folder."),
        *text_parameters(),
        Option("--top-k", type=POSITIVE_COUNT, default=5, metavar="N", help="The best N words. Default: 5."),
        Option("--targets", metavar="A,B,C", help="Only these words."),
        revision_option(),
        json_option("a table"),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge fill-mask google-bert/bert-base-uncased "Paris is in [MASK]."
  mlx-hf-bridge fill-mask FacebookAI/roberta-base "He is in <mask>." --top-k 3

A missing word is written as the model's mask token; [MASK] is replaced by it.""",
    texts_and_quantization_error,
)
