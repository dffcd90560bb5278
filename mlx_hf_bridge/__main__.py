"""`python -m mlx_hf_bridge`: zero-change mode for a program, else the command line."""

import os
import sys

from mlx_hf_bridge.zero_change import command

_PROGRAM_ENDINGS = (".py", ".pyz", ".zip")


def main(arguments: list[str]) -> int:
    """A program is known by its ending, a path, or an option of zero-change mode before it."""
    first = arguments[0] if arguments else ""
    is_program = not first.startswith("-") and (first.endswith(_PROGRAM_ENDINGS) or os.sep in first)
    if is_program or first.partition("=")[0] in command.OPTIONS:
        return command.main(arguments)
    # Only the command line needs the packages that it imports.
    from mlx_hf_bridge import cli

    if first in ("-h", "--help"):
        sys.stdout.write(f"{command.USAGE}\n")
    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
