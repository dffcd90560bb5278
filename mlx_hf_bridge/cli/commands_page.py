"""Write the page docs/commands.md from the commands' own help: `python -m mlx_hf_bridge.cli.commands_page`."""

import os
import sys

import click

from mlx_hf_bridge.cli.command import PROGRAM, Group
from mlx_hf_bridge.cli.parser import program

_HEADING = """# Commands

The help of every command, as `mlx-hf-bridge COMMAND --help` prints it.
`python -m mlx_hf_bridge.cli.commands_page > docs/commands.md` writes this page from the code.

- **Exit codes**: 0 is success, 1 an error or a check that fails, 2 wrong usage, 130 Ctrl-C. A reader that leaves early,
  as in `mlx-hf-bridge models | head`, is no error.
- **Output**: results go to stdout; notes, progress and errors go to stderr, so that results can be piped. `--json`
  prints one JSON document. Without a terminal, progress is a line every few seconds. `NO_COLOR`, `--no-color` and
  `--quiet` are honored.
- **Completion** of commands, options and recipes in bash, zsh and fish: `mlx-hf-bridge --install-completion`.
"""


def as_markdown() -> str:
    """Return the page docs/commands.md.

    Returns:
        The page, with the help of every command at 80 columns.
    """
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        parts = [_HEADING, *_sections(program(), PROGRAM, None)]
    finally:
        os.environ.pop("COLUMNS") if columns is None else os.environ.update(COLUMNS=columns)
    return "\n".join(parts)


def _sections(command: click.Command, path: str, parent: click.Context | None) -> list[str]:
    context = click.Context(command, parent, info_name=path.rpartition(" ")[2], max_content_width=80)
    context.help_option_names = ["-h", "--help"]
    level = "#" * (path.count(" ") + 2)
    # Only the page of the whole program has the global options, which every command has.
    text = command.get_help(context) if parent is None else _without_global_options(command.get_help(context))
    found = [f"{level} {path}\n\n```text\n{text.rstrip()}\n```\n"]
    if isinstance(command, Group):
        for name in command.list_commands(context):
            found += _sections(command.load(name), f"{path} {name}", context)
    return found


def _without_global_options(text: str) -> str:
    blocks = text.split("\n\n")
    return "\n\n".join(block for block in blocks if not block.startswith("Global options:"))


if __name__ == "__main__":
    sys.stdout.write(as_markdown())
