"""Options of `mlx-hf-bridge rerank`."""

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT
from mlx_hf_bridge.cli.options.shared import (
    batch_option,
    model_argument,
    quantization_options,
    revision_option,
    text_parameters,
    texts_and_quantization_error,
)

command = Command(
    "rerank",
    "Order texts by how well they answer a query.",
    [
        model_argument(help="A cross-encoder: a Hub id or a folder."),
        Argument("query", "The query."),
        *text_parameters(),
        Option("--top-k", type=POSITIVE_COUNT, metavar="N", help="The best N texts. Default: all."),
        batch_option(),
        revision_option(),
        json_option("a table"),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge rerank cross-encoder/ms-marco-MiniLM-L6-v2 "how do plants eat" \\
      "Leaves turn light into sugar." "The cat sleeps."
  mlx-hf-bridge rerank ./my-reranker "how do plants eat?" --file texts.txt \\
      --top-k 3 --json""",
    texts_and_quantization_error,
)
