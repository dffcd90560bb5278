"""The command line `python -m mlx_hf_bridge [options] script.py ...`, or `-m module ...` instead of the script."""

import atexit
import sys

from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.runtime import interrupts
from mlx_hf_bridge.zero_change import install, report
from mlx_hf_bridge.zero_change.script import run_module, run_script

USAGE = """usage: python -m mlx_hf_bridge [options] script.py [arguments ...]
       python -m mlx_hf_bridge [options] -m module [arguments ...]

Run a program that uses transformers or sentence-transformers with its encoder models on MLX.

  --quantization RECIPE  quantize the weights: q8, q4, ... (default: MLX_HF_BRIDGE_QUANTIZATION)
  --report               print at the end which models ran on MLX, which fell back to torch, and why
  --strict               raise an error where a model would fall back to torch
"""
OPTIONS = ("--quantization", "--report", "--strict", "-m")
_WRONG_USAGE = 2  # the exit code of argparse, and of Python itself


def main(arguments: list[str]) -> int:
    """Parse the options, run the program, and return the exit code: 0, or 2 for wrong usage."""
    rest, recipe, flags = list(arguments), None, set()
    while rest and rest[0].startswith("-") and rest[0] != "-m":
        option, given, value = rest.pop(0).partition("=")
        if option == "--quantization" and (given or rest):
            recipe = value if given else rest.pop(0)
        elif option in ("--report", "--strict") and not given:
            flags.add(option)
        else:
            return _usage_error(f"unknown option {option!r}" if option not in OPTIONS else f"{option} is incomplete")
    if not rest or rest == ["-m"]:
        return _usage_error("no program was given")
    try:
        install(recipe, strict="--strict" in flags, watch_torch="--report" in flags)
    except BridgeError as error:
        return _usage_error(str(error))
    if "--report" in flags:
        # At exit and not after the program's end, so that sys.exit and exceptions give a report too.
        atexit.register(lambda: sys.stderr.write(f"{report()}\n"))
    # The program is interrupted as it would be without this package.
    interrupts.stop_watching()
    if rest[0] == "-m":
        run_module(rest[1], rest[2:])
    else:
        run_script(rest[0], rest[1:])
    return 0


def _usage_error(message: str) -> int:
    sys.stderr.write(f"{USAGE}\nerror: {message}\n")
    return _WRONG_USAGE
