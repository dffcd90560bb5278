"""The arguments of every subcommand, with examples; light, so that --help is fast."""

import argparse
import sys
from collections.abc import Sequence

from mlx_hf_bridge.cli import help_texts
from mlx_hf_bridge.cli.quantization_options import BITS_CHOICES, STORAGE_DTYPES, QuantizationOptions
from mlx_hf_bridge.quantization.methods import METHODS
from mlx_hf_bridge.quantization.recipes import BITS, RECIPES
from mlx_hf_bridge.version import __version__

DEFAULT_CONFIG = "config/models.yaml"
DEFAULT_OUTPUT = "models/mlx_converted"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, checked; SystemExit(2) with a line of usage for those that contradict each other."""
    parser, commands = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    # argparse ends a list of positionals at the first flag (bugs.python.org/issue14191): `rest` has the texts after it.
    args, rest = parser.parse_known_args(words[:cut])
    more = rest + words[cut + 1 :]
    if more and (not hasattr(args, "text") or any(word.startswith("-") for word in rest)):
        commands[args.command].error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        args.text += more
    if fault := _usage_error(args):
        commands[args.command].error(fault)
    return args


def quantization_options(args: argparse.Namespace) -> QuantizationOptions:
    """The packing that the flags ask for."""
    own = (args.method, args.calibration_texts, args.bits_per_weight)
    return QuantizationOptions(args.bits, args.group_size, args.mode, args.dtype, args.recipe, *own)


def _usage_error(args: argparse.Namespace) -> str | None:
    flags = ("bits", "mode", "group_size")
    doubled = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag, None) is not None]
    if getattr(args, "recipe", None) and doubled:
        return f"--recipe {args.recipe} says all of the packing; leave {', '.join(doubled)} out, or --recipe"
    if args.command not in ("encode", "classify"):
        return None
    if args.text and args.file:
        return "texts were given both as arguments and with --file; give them one way"
    if not args.text and not args.file and (sys.stdin is None or sys.stdin.isatty()):
        return "no texts; give them as arguments, with --file, or piped into stdin"
    if args.command == "classify" and args.labels is None and (args.multi_label or args.hypothesis_template):
        return "--multi-label and --hypothesis-template are for zero-shot classification; give --labels a,b,c too"
    return None


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _described(
        argparse.ArgumentParser("mlx-hf-bridge"), "Encoder models of Hugging Face on MLX.", help_texts.MAIN
    )
    parser.add_argument("--version", action="version", version=f"mlx-hf-bridge {__version__}")
    _add_logging(parser, False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {}
    for name, add, help_line, examples in (
        ("convert", _add_convert, "convert models into folders of low-bit weights", help_texts.CONVERT),
        ("export-metal", _add_export_metal, "a converted folder for plain transformers", help_texts.EXPORT_METAL),
        ("encode", _add_encode, "texts to vectors", help_texts.ENCODE),
        ("classify", _add_classify, "texts to labels, fixed ones or (zero-shot) your own", help_texts.CLASSIFY),
        ("verify", _add_verify, "hold models against their float references", help_texts.VERIFY),
        ("demo", _add_demo, "see a search with a real model in 8 bits", help_texts.DEMO),
        ("models", _add_models, "which model types are computed here, with which heads", help_texts.MODELS),
        ("doctor", _add_doctor, "what this machine computes with, how fast, and advice", help_texts.DOCTOR),
    ):
        command = commands.add_parser(name, help=help_line)
        made[name] = _described(command, f"{help_line[0].upper()}{help_line[1:]}.", examples)
        add(command)
        _add_logging(command, argparse.SUPPRESS)
    return parser, made


def _described(parser: argparse.ArgumentParser, description: str, examples: str) -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _recipe(text: str) -> str:
    if text not in RECIPES and not text.endswith(".json"):
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text!r} (choose from {', '.join(RECIPES)}, or a .json file)"
        )
    return text


def _size(text: str) -> float:
    try:
        size = float(text)
    except ValueError:
        size = 0.0
    if not size > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of more than 0")
    return size


def _add_logging(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--verbose", action="store_true", default=default, help="log progress; tracebacks of errors")
    parser.add_argument("--debug", action="store_true", default=default, help="log everything")


def _add_packing(parser: argparse.ArgumentParser, default: str) -> None:
    group = parser.add_argument_group("packing", f"How weights are stored; default: {default}.")
    group.add_argument("--bits", type=int, choices=BITS_CHOICES, help="bits a weight; 32 is no quantisation")
    group.add_argument("--group-size", type=_count, metavar="N", help="weights that share a scale (32, 64, 128)")
    group.add_argument("--mode", choices=list(BITS), help="MLX's packing mode")
    group.add_argument("--recipe", type=_recipe, metavar="NAME", help=f"one of {', '.join(RECIPES)}; or a JSON file")
    group.add_argument("--method", choices=METHODS, help="how codes are found; gptq and distill read texts")
    group.add_argument("--calibration-texts", metavar="FILE", help="texts to read, one a line; default: bundled ones")
    group.add_argument("--bits-per-weight", type=_size, metavar="N", help="choose each module's bits to meet this mean")
    group.add_argument("--dtype", choices=STORAGE_DTYPES, help="of what is not packed; default: float16")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="NAME_ID_OR_PATH", help="a name of the config, else a Hub id or a folder")
    parser.add_argument("--config", metavar="FILE", help=f"the file of models; default: {DEFAULT_CONFIG}, if there")
    parser.add_argument("--output-dir", metavar="DIR", default=DEFAULT_OUTPUT, help="default: %(default)s")
    parser.add_argument(
        "--task", help="what for, e.g. feature-extraction, text-classification; default: as config.json"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--target-size-mb", type=_size, metavar="N", help="error if the weights would be larger")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="predict from headers, write nothing",
    )
    parser.add_argument("--no-skip", action="store_true", help="replace what is in the output folder")
    _add_packing(parser, "the config's, else 8 bits")


def _add_export_metal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="of convert, in affine 2, 4 or 8 bits, alike in all modules")
    parser.add_argument("output", metavar="OUTPUT", help="the folder to write; nothing may be in it")


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hub id or a folder")
    parser.add_argument("text", metavar="TEXT", nargs="*", help="texts; without any, stdin is read, one a line")
    parser.add_argument("--file", metavar="F", help="read the texts from a file, one a line (- is stdin)")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--batch-size", type=_count, default=32, metavar="N", help="texts at a time; default: 32")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    _add_packing(parser, "as the model is")


def _add_encode(parser: argparse.ArgumentParser) -> None:
    _add_texts(parser)
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts, e.g. query")
    parser.add_argument("--normalize", action="store_true", help="make every vector of length 1")
    parser.add_argument("--output", metavar="FILE", help="write the vectors as .npy or .parquet; goes on after a crash")
    parser.add_argument("--restart", action="store_true", help="with --output: forget what a broken run has left")


def _add_classify(parser: argparse.ArgumentParser) -> None:
    _add_texts(parser)
    parser.add_argument("--labels", metavar="A,B,C", help="your own labels: zero-shot, by an NLI model")
    parser.add_argument("--multi-label", action="store_true", help="judge each label by itself")
    parser.add_argument("--hypothesis-template", metavar="T", help='default: "This example is {}."')
    parser.add_argument("--top-k", type=_count, metavar="N", help="the N best labels of each text; default: all")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="+", help="converted folders; or Hub ids with a packing")
    parser.add_argument("--reference", metavar="MODEL", help="the float checkpoint; default: the one converted from")
    parser.add_argument("--texts", metavar="FILE", help="texts to compare on, one a line; default: bundled ones")
    parser.add_argument("--pairs", metavar="FILE.csv", help="text, text, score: Spearman's correlation")
    parser.add_argument("--labelled", metavar="FILE.csv", help="text, label: accuracy and F1 of a classifier")
    parser.add_argument("--task", choices=("embedding", "classification"), help="default: as config.json says")
    parser.add_argument(
        "--threshold", metavar="FIGURE=N", action="append", default=[], help="another bound; repeatable"
    )
    parser.add_argument("--full-test", action="store_true", help="loading, tokenising and embedding step by step too")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--html", metavar="FILE", help="write a report with pictures")
    parser.add_argument("--store", action="store_true", help="keep the result in the folder and its README.md")
    _add_packing(parser, "as the model is")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")


def _add_models(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    form.add_argument("--markdown", action="store_true", help="the page docs/models.md")


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
