"""Options of `mlx-hf-bridge inspect`."""

from mlx_hf_bridge.cli.command import Command, json_option
from mlx_hf_bridge.cli.options.shared import model_argument, revision_option

command = Command(
    "inspect",
    "Show what a model is and what works with it, before a download.",
    [model_argument(), revision_option(), json_option("a listing")],
    """\
  mlx-hf-bridge inspect BAAI/bge-small-en-v1.5
  mlx-hf-bridge inspect ./my-model --json

Of a repo on the Hub only small files and the headers of safetensors files are
read. The exit code is 1 if nothing can load the model.""",
)
