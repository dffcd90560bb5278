"""Runs `python -m mlx_hf_bridge`: zero-change mode if a program is given, otherwise the command line."""

import os
import sys

from mlx_hf_bridge.zero_change import command

_PROGRAM_ENDINGS = (".py", ".pyz", ".zip")


def main(arguments: list[str]) -> int:
    """Run zero-change mode or the command line.

    The first argument decides: zero-change mode takes a file name ending in .py, .pyz or .zip, a path, or one of its
    own options.

    Args:
        arguments: Command line arguments without the program's name.

    Returns:
        Exit status.
    """
    first = arguments[0] if arguments else ""
    is_program = not first.startswith("-") and (first.endswith(_PROGRAM_ENDINGS) or os.sep in first)
    if is_program or first.partition("=")[0] in command.OPTIONS:
        return command.main(arguments)
    # Imported here, because zero-change mode should not pay for the imports of the command line.
    from mlx_hf_bridge import cli

    if first in ("-h", "--help"):
        sys.stdout.write(f"{command.USAGE}\n")
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
