"""Options of `mlx-hf-bridge convert`, and the format of the models file."""

import argparse

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_SIZE
from mlx_hf_bridge.cli.options.shared import quantization_error, quantization_options, revision_option

_EXAMPLES = """\
  mlx-hf-bridge convert BAAI/bge-small-en-v1.5 --recipe q8
  mlx-hf-bridge convert BAAI/bge-small-en-v1.5 --recipe q4-best --output ./bge
  mlx-hf-bridge convert ./my-model --recipe mxfp4 --dry-run
  mlx-hf-bridge convert ./my-model --target-size-mb 25
  mlx-hf-bridge convert ./my-model --recipe q4-best --calibration-texts mine.txt
  mlx-hf-bridge convert                    all models of config/models.yaml
  mlx-hf-bridge convert --model minilm     the model of that name in it

A folder is written completely or not at all: OUTPUT, or else
OUTPUT_DIR/NAME-mlx-RECIPE. One that already has the result of the same source,
revision, recipe and dtype is skipped; any other existing folder is an error
without --no-skip.

The models file (without one, that of the package is used):
  models:
    - name: minilm                  the name for MODEL, and of the folder
      hf_name: org/minilm           a Hub id or a folder
      task: feature-extraction      optional, as --task
      revision: main                optional, as --revision
      quantization:                 optional, and so is each key
        recipe: q4-best             or bits, group_size and mode
        bits: 8                     2, 3, 4, 5, 6, 8; 32 is no quantization
        group_size: 64
        mode: affine
        method: gptq
        calibration_texts: mine.txt
        bits_per_weight: 4.5
        dtype: int8                 intN repeats the bits; float16 or bfloat16
                                    is for weights that are not quantized;
                                    float32 for 32 bits
        target_size_mb: 25          limit of the weights, 1 MB = 2^20 bytes
Options override the file's values."""


def _check(args: argparse.Namespace) -> str | None:
    if args.named is not None and args.model is not None:
        return "the model was given twice; leave out --model"
    if args.model is None:
        args.model = args.named
    if args.output and args.model is None:
        return "--output names the folder of one model; name the model too, or give --output-dir"
    return quantization_error(args)


command = Command(
    "convert",
    "Convert models to folders with low-bit weights.",
    [
        Argument("named", "A Hub id, a folder, or a name of the models file.", metavar="MODEL", required=False),
        Option("--model", metavar="MODEL", help="The same, as an option."),
        Option("--output", "-o", metavar="FOLDER", help="The folder to write."),
        Option(
            "--output-dir",
            metavar="DIR",
            default="models/mlx_converted",
            help="Where folders are written that --output does not name. Default: models/mlx_converted.",
        ),
        Option("--config", metavar="FILE", help="The models file. Default: config/models.yaml if it exists."),
        Option("--task", metavar="TASK", help="E.g. feature-extraction, text-classification. Default: by config.json."),
        revision_option(),
        Option(
            "--target-size-mb",
            type=POSITIVE_SIZE,
            metavar="N",
            help="Fail if the weights would be larger; with a mixed recipe, the size to aim at.",
        ),
        Option("--dry-run", is_flag=True, help="Predict sizes from file headers, write nothing."),
        Option("--no-skip", is_flag=True, help="Replace an existing output folder."),
        json_option(),
        *quantization_options("the models file's, else q8"),
    ],
    _EXAMPLES,
    _check,
)
