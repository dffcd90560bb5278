"""Options of `mlx-hf-bridge push`."""

from mlx_hf_bridge.cli.command import Argument, Command, Option, json_option

command = Command(
    "push",
    "Upload a converted folder to the Hub, with a model card.",
    [
        Argument("folder", "A folder that `convert` wrote."),
        Argument("repo", "The repository: organization/name or name.", metavar="REPO"),
        Option("--private", is_flag=True, help="Make a new repository private."),
        Option("--message", metavar="TEXT", help='The title of the commit. Default: "Upload MLX weights".'),
        Option("--revision", metavar="BRANCH", help="The branch to commit to. Default: main."),
        Option("--create-pr", is_flag=True, help="Open a pull request instead of committing."),
        Option("--dry-run", is_flag=True, help="Show the files and the card, upload nothing."),
        json_option(),
    ],
    """\
  mlx-hf-bridge push ./minilm-mlx-q8 me/minilm-mlx-q8 --dry-run
  mlx-hf-bridge push ./minilm-mlx-q8 me/minilm-mlx-q8 --private

Log in first: hf auth login. The card names the source, the quantization, and
what `verify --store` measured.""",
)
