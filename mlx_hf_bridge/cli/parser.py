"""The arguments of every subcommand, with examples; imports little, so that --help is fast."""

import argparse
import sys
from collections.abc import Sequence

from mlx_hf_bridge.cli import help_texts
from mlx_hf_bridge.cli.cache_arguments import add_cache, usage_error
from mlx_hf_bridge.cli.quantization_options import BITS_CHOICES, STORAGE_DTYPES, QuantizationOptions
from mlx_hf_bridge.quantization.methods import METHODS
from mlx_hf_bridge.quantization.recipes import BITS, RECIPES
from mlx_hf_bridge.version import __version__

DEFAULT_CONFIG = "config/models.yaml"
DEFAULT_OUTPUT = "models/mlx_converted"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed arguments; SystemExit(2) with a usage line if they contradict each other."""
    parser, commands = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    # argparse ends a list of positionals at the first flag (bugs.python.org/issue14191): `rest` has the texts after it.
    args, rest = parser.parse_known_args(words[:end])
    more = rest + words[end + 1 :]
    if more and (not hasattr(args, "text") or any(word.startswith("-") for word in rest)):
        commands[args.command].error(f"unrecognized arguments: {' '.join(more)}")
    if more:
        args.text += more
    args.words = words
    if message := _usage_error(args):
        commands[args.command].error(message)
    return args


def options_from_flags(args: argparse.Namespace) -> QuantizationOptions:
    """Return the quantization that the flags ask for."""
    own = (args.method, args.calibration_texts, args.bits_per_weight)
    return QuantizationOptions(args.bits, args.group_size, args.mode, args.dtype, args.recipe, *own)


def _usage_error(args: argparse.Namespace) -> str | None:
    flags = ("bits", "mode", "group_size")
    conflicting = [f"--{flag.replace('_', '-')}" for flag in flags if getattr(args, flag, None) is not None]
    if getattr(args, "recipe", None) and conflicting:
        return f"--recipe {args.recipe} already sets the quantization; leave out {', '.join(conflicting)}, or --recipe"
    if args.command == "cache":
        return usage_error(args)
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
        argparse.ArgumentParser("mlx-hf-bridge"), "Hugging Face encoder models on MLX.", help_texts.MAIN
    )
    parser.add_argument("--version", action="version", version=f"mlx-hf-bridge {__version__}")
    _add_logging(parser, False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    subparsers = {}
    for name, add, help_line, examples in (
        ("convert", _add_convert, "convert models to folders with low-bit weights", help_texts.CONVERT),
        ("export-metal", _add_export_metal, "export a converted folder for transformers", help_texts.EXPORT_METAL),
        ("encode", _add_encode, "compute the embeddings of texts", help_texts.ENCODE),
        (
            "classify",
            _add_classify,
            "classify texts by the model's labels, or (zero-shot) your own",
            help_texts.CLASSIFY,
        ),
        ("serve", _add_serve, "answer embeddings, rerank and classification requests over HTTP", help_texts.SERVE),
        ("verify", _add_verify, "compare converted models with their float originals", help_texts.VERIFY),
        ("demo", _add_demo, "run a small search with a real model in 8 bits", help_texts.DEMO),
        ("inspect", _add_inspect, "show what a model is and what works with it, before a download", help_texts.INSPECT),
        ("models", _add_models, "list the supported model types and their heads", help_texts.MODELS),
        ("cache", _add_cache, "list, verify, prune and remove converted models in the cache", help_texts.CACHE),
        ("doctor", _add_doctor, "show what this machine computes with, how fast, and advice", help_texts.DOCTOR),
        ("selfcheck", _add_selfcheck, "check that this machine's device computes right results", help_texts.SELFCHECK),
    ):
        command = commands.add_parser(name, help=help_line)
        subparsers[name] = _described(command, f"{help_line[0].upper()}{help_line[1:]}.", examples)
        add(command)
        _add_logging(command, argparse.SUPPRESS)
    return parser, subparsers


def _described(parser: argparse.ArgumentParser, description: str, examples: str) -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, examples
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of 1 or more")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 0 to 65535")
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
        raise argparse.ArgumentTypeError(f"{text!r} is not a number greater than 0")
    return size


def _add_logging(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument("--verbose", action="store_true", default=default, help="log progress and show tracebacks")
    parser.add_argument("--debug", action="store_true", default=default, help="log everything")


def _add_quantization(parser: argparse.ArgumentParser, default: str) -> None:
    group = parser.add_argument_group("quantization", f"How weights are stored; default: {default}.")
    group.add_argument("--bits", type=int, choices=BITS_CHOICES, help="bits per weight; 32 is no quantization")
    group.add_argument("--group-size", type=_count, metavar="N", help="weights that share a scale (32, 64, 128)")
    group.add_argument("--mode", choices=list(BITS), help="MLX's quantization mode")
    group.add_argument("--recipe", type=_recipe, metavar="NAME", help=f"one of {', '.join(RECIPES)}; or a JSON file")
    group.add_argument("--method", choices=METHODS, help="quantization method; gptq and distill need texts")
    group.add_argument(
        "--calibration-texts", metavar="FILE", help="texts for calibration, one per line; default: bundled texts"
    )
    group.add_argument(
        "--bits-per-weight", type=_size, metavar="N", help="choose bits for each module to reach this mean"
    )
    group.add_argument(
        "--dtype", choices=STORAGE_DTYPES, help="dtype of the weights that are not quantized; default: float16"
    )


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="NAME_ID_OR_PATH", help="a name from the models file, else a Hub id or a folder"
    )
    parser.add_argument("--config", metavar="FILE", help=f"the models file; default: {DEFAULT_CONFIG} if it exists")
    parser.add_argument("--output-dir", metavar="DIR", default=DEFAULT_OUTPUT, help="default: %(default)s")
    parser.add_argument("--task", help="e.g. feature-extraction, text-classification; default: by config.json")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--target-size-mb",
        type=_size,
        metavar="N",
        help="fail if the weights would be larger; with a mixed recipe, the size to aim at",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="predict sizes from file headers, write nothing",
    )
    parser.add_argument("--no-skip", action="store_true", help="replace an existing output folder")
    _add_quantization(parser, "the models file's, else 8 bits")


def _add_export_metal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder made by `convert` (affine 2, 4 or 8 bits, the same in every module)"
    )
    parser.add_argument("output", metavar="OUTPUT", help="the folder to write; must be empty or not exist")


def _add_texts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hub id or a folder")
    parser.add_argument("text", metavar="TEXT", nargs="*", help="texts; default: read from stdin, one per line")
    parser.add_argument(
        "--file", metavar="F", help="read the texts from a file, one per line, blank ones too (- is stdin)"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--batch-size", type=_count, default=32, metavar="N", help="texts per batch; default: 32")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    _add_quantization(parser, "no change")


def _add_encode(parser: argparse.ArgumentParser) -> None:
    _add_texts(parser)
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the model's prompts, e.g. query")
    parser.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    parser.add_argument("--output", metavar="FILE", help="write a .npy or .parquet file; resumes after a crash")
    parser.add_argument("--restart", action="store_true", help="with --output: discard a partial run and start over")


def _add_classify(parser: argparse.ArgumentParser) -> None:
    _add_texts(parser)
    parser.add_argument("--labels", metavar="A,B,C", help="your own labels (zero-shot; needs an NLI model)")
    parser.add_argument("--multi-label", action="store_true", help="score each label by itself")
    parser.add_argument("--hypothesis-template", metavar="T", help='default: "This example is {}."')
    parser.add_argument("--top-k", type=_count, metavar="N", help="the best N labels of each text; default: all")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL", nargs="+", help="a Hub id or a folder; ALIAS=MODEL names it too")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on; default: %(default)s")
    parser.add_argument("--port", type=_port, default=8080, metavar="N", help="default: %(default)s")
    parser.add_argument("--quantization", type=_recipe, metavar="NAME", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--lazy", action="store_true", help="load a model when it is first asked for")
    parser.add_argument("--max-models", type=_count, metavar="N", help="models in memory at a time; default: all")
    parser.add_argument("--max-model-gb", type=_size, metavar="N", help="memory of their weights; default: any")
    parser.add_argument(
        "--auto-truncate",
        action="store_true",
        help="truncate texts that are too long unless a request says otherwise; by default they are errors",
    )
    group = parser.add_argument_group("access")
    group.add_argument("--api-key", metavar="KEY", help="what clients must send; better: MLX_HF_BRIDGE_API_KEY")
    group.add_argument("--cors-origin", metavar="URL", action="append", default=[], help="repeatable; default: none")
    group.add_argument(
        "--allowed-host", metavar="NAME", action="append", default=[], help="repeatable; default: any, or this machine"
    )
    group.add_argument("--no-access-log", dest="access_log", action="store_false", help="log no requests")
    group = parser.add_argument_group("limits", "Requests beyond them are refused.")
    group.add_argument("--max-concurrent-requests", type=_count, metavar="N", help="default: 512")
    group.add_argument("--max-client-batch-size", type=_count, metavar="N", help="texts of a request; default: 2048")
    group.add_argument("--max-batch-tokens", type=_count, metavar="N", help="tokens computed together")
    group.add_argument("--max-body-mb", type=_size, metavar="N", help="size of a request; default: 8")
    group.add_argument("--timeout", type=_size, metavar="SECONDS", help="time to answer a request; default: 300")
    group = parser.add_argument_group("service")
    group.add_argument("--print-unit", choices=("systemd", "launchd"), help="print a service that runs this command")
    group.add_argument("--install", action="store_true", help="write that service for this user")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", metavar="MODEL", nargs="+", help="converted folders; or Hub ids together with --bits or --recipe"
    )
    parser.add_argument(
        "--reference", metavar="MODEL", help="the float checkpoint; default: the source of the conversion"
    )
    parser.add_argument("--texts", metavar="FILE", help="texts to compare on, one per line; default: bundled texts")
    parser.add_argument("--pairs", metavar="FILE.csv", help="text, text, score: measure Spearman's correlation")
    parser.add_argument("--labelled", metavar="FILE.csv", help="text, label: measure accuracy and F1 of a classifier")
    parser.add_argument("--task", choices=("embedding", "classification"), help="default: by config.json")
    parser.add_argument(
        "--threshold", metavar="FIGURE=N", action="append", default=[], help="replace the bound of a figure; repeatable"
    )
    parser.add_argument(
        "--full-test", action="store_true", help="also check loading, tokenizing and embedding step by step"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--html", metavar="FILE", help="write a report with pictures")
    parser.add_argument("--store", action="store_true", help="store the result in the folder and its README.md")
    _add_quantization(parser, "no change")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a Hub id or a folder")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a listing")


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoints",
        nargs="?",
        const="",
        metavar="PART",
        help="list tested checkpoints instead, only those with PART in the name, task or layout",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    form.add_argument("--markdown", action="store_true", help="print the page docs/models.md, or docs/checkpoints.md")


def _add_cache(parser: argparse.ArgumentParser) -> None:
    add_cache(parser, _add_logging)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")


def _add_selfcheck(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--output", metavar="FILE", help="also write the JSON to a file, to attach to a bug report")
