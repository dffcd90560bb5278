"""Write the help page of a command: names and texts in two columns, under headings, for 80 columns."""

import os
import sys

import click

# The widest name that stands on the line of its text.
_NAMES = 28
ARGUMENTS, OPTIONS, GLOBAL = "Arguments", "Options", "Global options"


def write_parameters(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the arguments and options of a command under their headings, the global options last.

    Args:
        command: The command.
        ctx: Its context.
        formatter: What the page is written to.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is not None:
            # click's own option --help has no group.
            heading = getattr(param, "group", GLOBAL)
            groups.setdefault(heading, []).append(record)
    write_rows(formatter, dict(sorted(groups.items(), key=lambda item: item[0] == GLOBAL)))


def write_rows(formatter: click.HelpFormatter, groups: dict[str, list[tuple[str, str]]]) -> None:
    """Write lists of names and texts under headings, all texts in one column.

    Args:
        formatter: What the page is written to.
        groups: Names and texts by their heading.
    """
    width = max((len(name) for rows in groups.values() for name, _ in rows if len(name) <= _NAMES), default=0)
    for heading, rows in groups.items():
        write_heading(formatter, heading)
        formatter.indent()
        formatter.write_dl([(name.ljust(width), text) for name, text in rows], col_max=_NAMES)
        formatter.dedent()


def write_heading(formatter: click.HelpFormatter, heading: str) -> None:
    """Write a heading after a blank line."""
    formatter.write_paragraph()
    formatter.write(bold(f"{heading}:") + "\n")


def bold(text: str) -> str:
    """Return a text in bold if standard output is a terminal that shows colors."""
    is_plain = "NO_COLOR" in os.environ or "--no-color" in sys.argv or not sys.stdout.isatty()
    return text if is_plain else click.style(text, bold=True)
