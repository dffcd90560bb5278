"""Options of `mlx-hf-bridge bench`."""

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import OneOf
from mlx_hf_bridge.cli.options.shared import RECIPE, model_argument

command = Command(
    "bench",
    "Measure once how fast a model is on this machine.",
    [
        model_argument(),
        Argument(
            "recipes",
            "Quantizations to measure. Default: the model as it is, and q8.",
            metavar="RECIPE",
            nargs=-1,
            type=RECIPE,
            required=False,
        ),
        Option("--texts", metavar="FILE", help="Texts to compute, one per line. Default: bundled texts."),
        Option(
            "--task",
            type=OneOf(("embedding", "classification")),
            metavar="TASK",
            help="embedding or classification. Default: by config.json.",
        ),
        Option("--no-reference", is_flag=True, help="Do not measure the same model on torch."),
        json_option("a table"),
    ],
    """\
  mlx-hf-bridge bench BAAI/bge-small-en-v1.5
  mlx-hf-bridge bench ./my-model q8 q4-best --texts mine.txt

A quick look: everything is measured once, in one process, next to
sentence-transformers or transformers if torch is installed. The benchmarks of
the repository measure in fresh processes, in turn.""",
)
