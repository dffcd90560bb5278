"""Options of `mlx-hf-bridge cache` and its actions."""

import argparse

import click

from mlx_hf_bridge.cli.command import Argument, Command, Group, Option, json_option
from mlx_hf_bridge.cli.option_types import DAYS, OneOf

_SUMMARIES = {
    "list": "List the converted models, with sizes, ages and states.",
    "verify": "Compare every byte of converted models with the checksums noted at their conversion.",
    "prune": "Remove what no load would find: outdated and broken models, and what killed conversions left.",
    "remove": "Remove converted models.",
}
_TARGETS = Argument(
    "target", "Hub ids, folders, recipes, or ids from `list`.", metavar="TARGET", nargs=-1, required=False
)
_RECIPE = Option("--recipe", metavar="NAME", help="Only models of this recipe, such as q8.")
_REMOVAL: list[click.Parameter] = [
    Option("--yes", "-y", is_flag=True, help="Do not ask."),
    Option("--dry-run", is_flag=True, help="Show what would be removed, remove nothing."),
]
_ORDER = OneOf(("name", "size", "created", "used"))


def _check_removal(args: argparse.Namespace) -> str | None:
    if not args.target and args.recipe is None:
        return "nothing to remove was named; give Hub ids, folders or ids from `cache list`, or --recipe"
    return None


_OPTIONS: dict[str, list[click.Parameter]] = {
    "list": [
        Option("--sort", type=_ORDER, default="name", metavar="KEY", help="name (default), size, created or used."),
    ],
    "verify": [
        _TARGETS,
        _RECIPE,
        Option("--fix", is_flag=True, help="Remove damaged models; the next load converts again."),
    ],
    "prune": [
        Option("--unused-for", type=DAYS, metavar="DAYS", help="Also models not loaded for so many days."),
        *_REMOVAL,
    ],
    "remove": [_TARGETS, _RECIPE, *_REMOVAL],
}


def _action(name: str) -> Command:
    check = _check_removal if name == "remove" else None
    return Command(name, _SUMMARIES[name], [*_OPTIONS[name], json_option()], check=check)


command = Group(
    "cache",
    "List, verify, prune and remove converted models in the cache.",
    {"Commands": {name: summary.rstrip(".") for name, summary in _SUMMARIES.items()}},
    _action,
    examples="""\
  mlx-hf-bridge cache list --sort size
  mlx-hf-bridge cache verify --fix
  mlx-hf-bridge cache prune --unused-for 90 --dry-run
  mlx-hf-bridge cache remove BAAI/bge-small-en-v1.5 --recipe q8 --yes

A model that a process has loaded is never removed. `verify` ends with 1 if a
model is damaged and was not removed.""",
    aliases={"ls": "list", "rm": "remove"},
)
