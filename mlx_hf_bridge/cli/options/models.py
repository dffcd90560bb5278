"""Options of `mlx-hf-bridge models`."""

import argparse

from mlx_hf_bridge.cli.command import Command, Option, json_option


def _check(args: argparse.Namespace) -> str | None:
    return "--json and --markdown are two forms of the list; give one of them" if args.json and args.markdown else None


command = Command(
    "models",
    "List the supported model types and their heads.",
    [
        Option(
            "--checkpoints",
            is_flag=False,
            flag_value="",
            metavar="[PART]",
            help="List tested checkpoints instead, only those with PART in the name, task or layout.",
        ),
        Option("--markdown", is_flag=True, help="Print the page docs/models.md, or docs/checkpoints.md."),
        json_option("tables"),
    ],
    """\
  mlx-hf-bridge models
  mlx-hf-bridge models --checkpoints
  mlx-hf-bridge models --checkpoints bge --json
  mlx-hf-bridge models --markdown > docs/models.md""",
    _check,
)
