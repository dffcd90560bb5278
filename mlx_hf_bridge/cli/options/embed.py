"""Options of `mlx-hf-bridge embed`."""

import argparse

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option
from mlx_hf_bridge.cli.option_types import POSITIVE_COUNT, OneOf
from mlx_hf_bridge.cli.options.shared import batch_option, quantization_error, quantization_options, revision_option

_RUNNERS = "Machines"


def _error(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the options together, or None."""
    if args.ray and (args.shard or args.workers):
        return "--ray divides the work itself; leave out --shard and --workers, or --ray"
    return quantization_error(args)


command = Command(
    "embed",
    "Embed the texts of files, and continue after an interruption.",
    [
        Argument("input", "A file or folder: Parquet, Arrow, JSONL or CSV.", metavar="IN", required=True),
        Argument("output", "The folder of the results, as Parquet files.", metavar="OUT", required=True),
        Option("--model", "-m", metavar="MODEL", required=True, help="A Hub id or a folder."),
        Option("--text-column", metavar="NAME", default="text", help="The column with the texts. Default: text."),
        Option("--id-column", metavar="NAME", help="The column that identifies rows. Default: file and row."),
        Option("--keep-column", metavar="NAME", multiple=True, help="A further column to write; may be repeated."),
        Option("--prompt-name", metavar="NAME", help="One of the model's prompts, e.g. document."),
        Option("--normalize", is_flag=True, help="Scale every embedding to length 1."),
        Option("--truncate-dim", type=POSITIVE_COUNT, metavar="N", help="How many dimensions are kept."),
        Option("--precision", type=OneOf(["float32", "binary", "ubinary"]), metavar="NAME", help="Default: float32."),
        Option("--rows-per-unit", type=POSITIVE_COUNT, metavar="N", help="Rows of an output file. Default: 16384."),
        Option("--restart", is_flag=True, help="Discard what an earlier run left in OUT."),
        batch_option(),
        revision_option(),
        json_option(),
        Option("--shard", metavar="I/N", group=_RUNNERS, help="Only the I-th of N parts of the work, e.g. 1/4."),
        Option("--workers", type=POSITIVE_COUNT, metavar="N", group=_RUNNERS, help="Processes. Default: 1."),
        Option("--ray", metavar="ADDRESS", group=_RUNNERS, help="Compute on this Ray cluster, e.g. auto."),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge embed articles/ vectors/ -m all-MiniLM-L6-v2
  mlx-hf-bridge embed articles/ vectors/ -m ./minilm-mlx-q8 --shard 1/4
  mlx-hf-bridge embed articles/ vectors/ -m BAAI/bge-small-en-v1.5 --ray auto""",
    _error,
)
