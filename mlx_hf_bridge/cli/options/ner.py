"""Options of `mlx-hf-bridge ner`."""

from mlx_hf_bridge.cli.command import Command, Option, json_option
from mlx_hf_bridge.cli.option_types import OneOf
from mlx_hf_bridge.cli.options.shared import (
    batch_option,
    model_argument,
    quantization_options,
    revision_option,
    text_parameters,
    texts_and_quantization_error,
)

command = Command(
    "ner",
    "Find the names and terms in texts (named entity recognition).",
    [
        model_argument(help="A token classifier or a GLiNER model: a Hub id or a folder."),
        *text_parameters(),
        Option("--labels", metavar="A,B,C", help="Your own labels (needs a GLiNER model)."),
        Option(
            "--aggregation",
            type=OneOf(("simple", "first", "average", "max")),
            default="simple",
            metavar="NAME",
            help="How tokens are joined: simple (default), first, average or max.",
        ),
        Option("--html", metavar="FILE", help="Write a page with the entities highlighted."),
        batch_option(),
        revision_option(),
        json_option("the texts with their entities marked"),
        *quantization_options("none"),
    ],
    """\
  mlx-hf-bridge ner dslim/bert-base-NER "Angela Merkel was born in Hamburg."
  mlx-hf-bridge ner dslim/bert-base-NER --file news.txt --html entities.html
  mlx-hf-bridge ner urchade/gliner_small-v2.1 "Aspirin helps with headache." \\
      --labels drug,symptom""",
    texts_and_quantization_error,
)
