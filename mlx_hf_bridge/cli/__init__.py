"""The `mlx-hf-bridge` command: parse arguments, call the public API, print a table or JSON, return an exit code.

Exit codes: 0 success, 1 an error or a check that fails (one line on stderr), 2 wrong usage, 130 interrupted.
"""

import importlib
import os
import sys
from collections.abc import Sequence

from mlx_hf_bridge.cli import completion
from mlx_hf_bridge.cli.console import print_error, set_up
from mlx_hf_bridge.cli.parser import parse, program
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.runtime import interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        arguments: The words after the program's name. Default: those of this process.

    Returns:
        The exit code.

    Raises:
        SystemExit: After wrong usage (2), and after --help and --version (0).
    """
    try:
        if completion.is_asked_for():
            return completion.complete(program())
        args = parse(arguments)
    except BrokenPipeError:
        return _output_closed()
    except KeyboardInterrupt:
        return interrupts.INTERRUPTED
    shows_tracebacks = args.verbose or args.debug
    set_up(args)
    try:
        # First, since it loads a BLAS, which must be there before MLX.
        importlib.import_module("mlx_hf_bridge.runtime.device")
        # Each subcommand is a module; only the requested one is imported, so that --help is fast.
        command = importlib.import_module(f"{__name__}.{args.command.replace('-', '_')}")
        with interrupts.raising():
            code: int = command.run(args)
            sys.stdout.flush()
    except BrokenPipeError:
        return _output_closed()
    except (BridgeError, OSError) as error:
        print_error(error, shows_tracebacks)
        return 1
    except Exception as error:
        # One that no check foresaw; --verbose shows where.
        prefix = f"{args.command} failed with {type(error).__name__}: "
        print_error(error, shows_tracebacks, prefix)
        return 1
    except KeyboardInterrupt:
        return interrupts.INTERRUPTED
    return code


def _output_closed() -> int:
    # In `... | head` the reader has closed the pipe; the buffered rest must not raise at exit
    # (docs.python.org/3/library/signal.html#note-on-sigpipe).
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
