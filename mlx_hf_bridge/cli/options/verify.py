"""Options of `mlx-hf-bridge verify`."""

from mlx_hf_bridge.cli.command import Command, Option, json_option
from mlx_hf_bridge.cli.option_types import OneOf
from mlx_hf_bridge.cli.options.shared import model_argument, quantization_error, quantization_options

command = Command(
    "verify",
    "Compare converted models with their float originals.",
    [
        model_argument("models", "Converted folders; or Hub ids together with --recipe or --bits.", -1),
        Option("--reference", metavar="MODEL", help="The float checkpoint. Default: the source of the conversion."),
        Option("--texts", metavar="FILE", help="Texts to compare on, one per line. Default: bundled texts."),
        Option("--pairs", metavar="FILE.csv", help="text, text, score: measure Spearman's correlation."),
        Option("--labelled", metavar="FILE.csv", help="text, label: measure accuracy and F1 of a classifier."),
        Option(
            "--task",
            type=OneOf(("embedding", "classification")),
            metavar="TASK",
            help="embedding or classification. Default: by config.json.",
        ),
        Option("--threshold", metavar="FIGURE=N", multiple=True, help="Replace the bound of a figure; repeatable."),
        Option("--full-test", is_flag=True, help="Also check loading, tokenizing and embedding step by step."),
        json_option("tables"),
        Option("--html", metavar="FILE", help="Write a report with pictures."),
        Option("--store", is_flag=True, help="Store the result in the folder and its README.md."),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge verify ./minilm-mlx-q4
  mlx-hf-bridge verify ./minilm-mlx-q8 ./minilm-mlx-q4 --html report.html
  mlx-hf-bridge verify BAAI/bge-small-en-v1.5 --recipe q4-best --json
  mlx-hf-bridge verify ./my-classifier-mlx-q4 --labelled test.csv \\
      --threshold accuracy_loss=0.5 --full-test

The exit code is 0 if every check and step passes, else 1.""",
    quantization_error,
)
