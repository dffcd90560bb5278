"""Options of `mlx-hf-bridge doctor`."""

from mlx_hf_bridge.cli.command import Command, json_option

command = Command(
    "doctor",
    "Show what this machine computes with, how fast, and advice.",
    [json_option("tables")],
    """\
  mlx-hf-bridge doctor
  mlx-hf-bridge doctor --json""",
)
