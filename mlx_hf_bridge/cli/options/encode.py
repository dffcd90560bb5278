"""Options of `mlx-hf-bridge encode`."""

from mlx_hf_bridge.cli.command import Command, Option, json_option
from mlx_hf_bridge.cli.options.shared import (
    batch_option,
    model_argument,
    quantization_options,
    revision_option,
    text_parameters,
    texts_and_quantization_error,
)

command = Command(
    "encode",
    "Compute the embeddings of texts.",
    [
        model_argument(),
        *text_parameters(),
        Option("--prompt-name", metavar="NAME", help="One of the model's prompts, e.g. query."),
        Option("--normalize", is_flag=True, help="Scale every embedding to length 1."),
        Option("--output", "-o", metavar="FILE", help="Write a .npy or .parquet file; resumes after a crash."),
        Option("--restart", is_flag=True, help="With --output: discard a partial run and start over."),
        batch_option(),
        revision_option(),
        json_option("a table"),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge encode sentence-transformers/all-MiniLM-L6-v2 "a text" "another"
  mlx-hf-bridge encode ./minilm-mlx-q8 --file texts.txt --output vectors.npy
  cat texts.txt | mlx-hf-bridge encode BAAI/bge-small-en-v1.5 --recipe q8 --json""",
    texts_and_quantization_error,
)
