"""What every command has in common: lazy loading, grouped options, global options, suggestions, and 80-column help."""

import argparse
import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from mlx_hf_bridge.cli.help_page import ARGUMENTS, GLOBAL, OPTIONS, write_heading, write_parameters, write_rows

PROGRAM = "mlx-hf-bridge"
_WIDTH = 80
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH}


class Option(click.Option):
    """An option under a heading of the help page.

    Args:
        *names: "--name", and "-n" if it has a short form.
        group: The heading.
        **settings: As in click.Option.
    """

    def __init__(self, *names: str, group: str = OPTIONS, **settings: Any) -> None:
        super().__init__(names, **settings)
        self.group = group


class Argument(click.Argument):
    """A positional argument with a line of help.

    Args:
        name: Its name in the parsed arguments.
        help: What it is.
        **settings: As in click.Argument.
    """

    def __init__(self, name: str, help: str, **settings: Any) -> None:
        super().__init__([name], **settings)
        self.summary = help
        self.group = ARGUMENTS

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        """Return the two columns of the help page."""
        return self.make_metavar(ctx), self.summary

    def make_metavar(self, ctx: click.Context) -> str:
        """Return its name in the usage line: MODEL, [TEXT]..."""
        name = self.metavar or str(self.name).upper()
        return f"{name if self.required else f'[{name}]'}{'...' if self.nargs != 1 else ''}"


def global_options() -> list[click.Parameter]:
    """Return the options that the program and every command have."""
    own: dict[str, Any] = {"group": GLOBAL, "is_flag": True}
    return [
        Option("-q", "--quiet", help="Print results and errors only.", **own),
        Option("-v", "--verbose", help="Log what is done; show tracebacks of errors.", **own),
        Option("--debug", help="Log everything, with times and places.", **own),
        Option("--no-color", help="Print without colors, as NO_COLOR does.", **own),
    ]


def json_option(shown: str = "text") -> Option:
    """Return the option --json of commands that report something.

    Args:
        shown: What is printed without it.

    Returns:
        The option.
    """
    return Option("--json", is_flag=True, help=f"Print one JSON document instead of {shown}.")


class Command(click.Command):
    """A command whose callback returns the parsed arguments; the module of its name does the work.

    Args:
        name: What is typed.
        summary: One sentence, the first line of its help page.
        params: Its arguments and options.
        examples: Command lines, and sentences after them; shown as they are.
        check: Returns what is wrong with the arguments together, or None.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        params: Sequence[click.Parameter],
        examples: str = "",
        check: Callable[[argparse.Namespace], str | None] | None = None,
    ) -> None:
        super().__init__(
            name, params=[*params, *global_options()], help=summary, callback=_namespace, context_settings=_CONTEXT
        )
        self.examples = examples
        self.check = check

    def format_arguments(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write nothing, since newer versions of click would list arguments twice."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write arguments, then options under their headings."""
        write_parameters(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        if self.examples:
            write_heading(formatter, "Examples")
            formatter.write(self.examples.rstrip() + "\n")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words; a word too many, or an unknown option, is named with what may have been meant."""
        return _parse_args(super().parse_args, self, ctx, args)


class Group(click.Group):
    """A command with subcommands, which are imported when they are used.

    Args:
        name: What is typed.
        summary: One sentence, the first line of its help page.
        sections: A heading for each group of subcommands, and the line of help of each by its name.
        load: Returns a subcommand by its name.
        params: Its own options.
        examples: Shown as they are.
        aliases: Other names of subcommands.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        sections: dict[str, dict[str, str]],
        load: Callable[[str], click.Command],
        params: Sequence[click.Parameter] = (),
        examples: str = "",
        aliases: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            name,
            params=[*params, *global_options()],
            help=summary,
            context_settings=_CONTEXT,
            subcommand_metavar="COMMAND ...",
        )
        self.sections = sections
        self.load = load
        self.examples = examples
        self.aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all subcommands."""
        return [name for section in self.sections.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the subcommand of that name or alias; None if there is none."""
        name = self.aliases.get(cmd_name, cmd_name)
        return self.load(name) if name in self.list_commands(ctx) else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand that the first word names, or say which are near it."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            names = [*self.list_commands(ctx), *self.aliases]
            raise click.UsageError(f"there is no command {args[0]!r}{did_you_mean(args[0], names)}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Return names of subcommands from the table, without importing any."""
        from click.shell_completion import CompletionItem

        lines = {name: text for section in self.sections.values() for name, text in section.items()}
        found = [CompletionItem(name, help=text) for name, text in lines.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the subcommands under their headings, then the options."""
        write_rows(formatter, {heading: list(commands.items()) for heading, commands in self.sections.items()})
        write_parameters(self, ctx, formatter)

    format_epilog = Command.format_epilog

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words up to the subcommand."""
        return _parse_args(super().parse_args, self, ctx, args)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return "; did you mean x?" for what is near to a word that is not known, else "".

    Args:
        given: The word.
        known: The words that are known.

    Returns:
        The end of a message.
    """
    names = list(known)
    near = [name for name in names if given.strip("-") and name.startswith(given)][:2]
    near = near or difflib.get_close_matches(given, names, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def load_command(package: str, name: str) -> click.Command:
    """Return the `command` of the module that has a command's options.

    Args:
        package: The package of such modules.
        name: The name of the command.

    Returns:
        The command.
    """
    command: click.Command = importlib.import_module(f"{package}.{name.replace('-', '_')}").command
    return command


def _namespace(**params: Any) -> argparse.Namespace:
    """Return the parsed arguments of a command, those of the commands around it, and the names of all."""
    ctx = click.get_current_context()
    found = argparse.Namespace()
    names = []
    inner: click.Context | None = ctx
    while inner is not None and inner.parent is not None:
        names.append(str(inner.command.name))
        inner = inner.parent
    found.command, *actions = reversed(names)
    for action in actions:
        found.action = action
    for context in (ctx, ctx.parent, ctx.find_root()):
        for name, value in context.params.items() if context else ():
            # A flag may stand before the command or after it.
            setattr(found, name, getattr(found, name, None) or (list(value) if isinstance(value, tuple) else value))
    check = getattr(ctx.command, "check", None)
    if check and (message := check(found)):
        raise click.UsageError(message, ctx)
    return found


def _parse_args(
    parse: Callable[[click.Context, list[str]], list[str]], command: click.Command, ctx: click.Context, args: list[str]
) -> list[str]:
    try:
        return parse(ctx, args)
    except click.NoSuchOption as error:
        names = [name for param in command.get_params(ctx) for name in param.opts if name.startswith("--")]
        message = f"there is no option {error.option_name}{did_you_mean(error.option_name, names)}"
        raise click.UsageError(message, ctx) from error
    except click.UsageError as error:
        # click's parser does not say which command it parsed for.
        error.ctx = error.ctx or ctx
        raise
