"""The `mlx-hf-bridge` command: parse arguments, call the public API, print a table or JSON, return an exit code.

Exit codes: 0 success, 1 an error (one line on stderr), 2 wrong usage, 130 interrupted.
"""

import importlib
import logging
import os
import sys
from collections.abc import Sequence

from rich.logging import RichHandler

from mlx_hf_bridge.cli.console import console, print_error
from mlx_hf_bridge.cli.parser import parse
from mlx_hf_bridge.errors import BridgeError
from mlx_hf_bridge.runtime import interrupts


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code; wrong usage, --help and --version raise SystemExit."""
    args = parse(arguments)
    _log(args.verbose, args.debug)
    try:
        # Each subcommand is a module; only the requested one is imported, so that --help is fast.
        command = importlib.import_module(f"{__name__}.{args.command.replace('-', '_')}")
        with interrupts.raising():
            code: int = command.run(args)
            sys.stdout.flush()
    except BrokenPipeError:
        return _output_closed()
    except (BridgeError, OSError) as error:
        print_error(error, args.verbose or args.debug)
        return 1
    except Exception as error:
        # One that no check foresaw; --verbose shows where.
        prefix = f"{args.command} failed with {type(error).__name__}: "
        print_error(error, args.verbose or args.debug, prefix)
        return 1
    except KeyboardInterrupt:
        return interrupts.INTERRUPTED
    return code


def _output_closed() -> int:
    # In `... | head` the reader has closed the pipe; the buffered rest must not raise at exit
    # (docs.python.org/3/library/signal.html#note-on-sigpipe).
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _log(verbose: bool, debug: bool) -> None:
    """Log warnings to stderr; with --verbose this package's progress too, with --debug everything."""
    handler = RichHandler(console=console(error=True), show_path=debug, show_time=debug)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.NOTSET
    logging.getLogger("mlx_hf_bridge").setLevel(level)
