"""The arguments of `mlx-hf-bridge cache` and its actions."""

import argparse
from collections.abc import Callable

_ACTIONS = {
    "list": ("ls", "list the converted models, with sizes, ages and states"),
    "verify": ("", "compare every byte of converted models with the checksums noted at their conversion"),
    "prune": ("", "remove what no load would find: outdated and broken models, and what killed conversions left"),
    "remove": ("rm", "remove converted models"),
}


def add_cache(parser: argparse.ArgumentParser, add_logging: Callable[[argparse.ArgumentParser, object], None]) -> None:
    """Add the actions and their options.

    Args:
        parser: The parser of the subcommand `cache`.
        add_logging: Adds the options of logging to the parser of an action.
    """
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (alias, help_line) in _ACTIONS.items():
        action = actions.add_parser(name, aliases=[alias] if alias else [], help=help_line)
        action.description = f"{help_line[0].upper()}{help_line[1:]}."
        action.add_argument("--json", action="store_true", help="one JSON document instead of text")
        add_logging(action, argparse.SUPPRESS)
        if name == "list":
            action.add_argument(
                "--sort", choices=("name", "size", "created", "used"), default="name", help="default: %(default)s"
            )
        if name in ("verify", "remove"):
            action.add_argument(
                "target", metavar="TARGET", nargs="*", help="a Hub id, a folder, a recipe, or an id from `list`"
            )
            action.add_argument("--recipe", metavar="NAME", help="only models of this recipe, such as q8")
        if name == "verify":
            action.add_argument(
                "--fix", action="store_true", help="remove damaged models; the next load converts again"
            )
        if name == "prune":
            action.add_argument(
                "--unused-for", type=_days, metavar="DAYS", help="also models that were not loaded for so many days"
            )
        if name in ("prune", "remove"):
            action.add_argument("-y", "--yes", action="store_true", help="do not ask")
            action.add_argument("--dry-run", action="store_true", help="show what would be removed, remove nothing")


def usage_error(args: argparse.Namespace) -> str | None:
    """Return what is wrong with the arguments together.

    Args:
        args: The parsed arguments of `cache`.

    Returns:
        The message; None if they are right.
    """
    if args.action in ("remove", "rm") and not args.target and args.recipe is None:
        return "nothing to remove was named; give Hub ids, folders or ids from `cache list`, or --recipe"
    return None


def _days(text: str) -> float:
    try:
        days = float(text.removesuffix("d"))
    except ValueError:
        days = -1.0
    if not days >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days")
    return days
