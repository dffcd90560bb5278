"""Options of `mlx-hf-bridge serve`."""

from mlx_hf_bridge.cli.command import Command, Option
from mlx_hf_bridge.cli.option_types import PORT, POSITIVE_COUNT, POSITIVE_SIZE, OneOf
from mlx_hf_bridge.cli.options.shared import RECIPE, model_argument

_ACCESS, _LIMITS, _SERVICE = "Access", "Limits (requests beyond them are refused)", "Service"

command = Command(
    "serve",
    "Answer embeddings, rerank and classification requests over HTTP.",
    [
        model_argument("models", "A Hub id or a folder; ALIAS=MODEL names it too.", -1),
        Option(
            "--task",
            metavar="[NAME=]TASK",
            multiple=True,
            help="What a model is for, where its files do not say: embed, sparse, multi-vector, rerank, classify, ner "
            "or zero-shot-ner. Repeatable, with the name of one of several models.",
        ),
        Option("--host", metavar="HOST", default="127.0.0.1", help="The address to listen on. Default: 127.0.0.1."),
        Option("--port", type=PORT, default=8080, metavar="N", help="Default: 8080."),
        Option("--quantization", type=RECIPE, metavar="NAME", help="A recipe, such as q8; or a JSON file."),
        Option("--lazy", is_flag=True, help="Load a model when it is first asked for."),
        Option("--max-models", type=POSITIVE_COUNT, metavar="N", help="Models in memory at a time. Default: all."),
        Option("--max-model-gb", type=POSITIVE_SIZE, metavar="N", help="Memory of their weights. Default: any."),
        Option(
            "--auto-truncate",
            is_flag=True,
            help="Truncate texts that are too long unless a request says otherwise; by default they are errors.",
        ),
        Option(
            "--api-key",
            metavar="KEY",
            group=_ACCESS,
            help="What clients must send; better: the variable MLX_HF_BRIDGE_API_KEY.",
        ),
        Option("--cors-origin", metavar="URL", multiple=True, group=_ACCESS, help="Repeatable. Default: none."),
        Option(
            "--allowed-host",
            metavar="NAME",
            multiple=True,
            group=_ACCESS,
            help="Repeatable. Default: any, or this machine.",
        ),
        Option(
            "--no-access-log",
            "access_log",
            is_flag=True,
            flag_value=False,
            default=True,
            group=_ACCESS,
            help="Log no requests.",
        ),
        Option("--otel", is_flag=True, group=_ACCESS, help="Trace requests by OpenTelemetry (extra `otel`)."),
        Option("--max-concurrent-requests", type=POSITIVE_COUNT, metavar="N", group=_LIMITS, help="Default: 512."),
        Option(
            "--max-client-batch-size",
            type=POSITIVE_COUNT,
            metavar="N",
            group=_LIMITS,
            help="Texts of a request. Default: 2048.",
        ),
        Option("--max-batch-tokens", type=POSITIVE_COUNT, metavar="N", group=_LIMITS, help="Tokens computed together."),
        Option("--max-body-mb", type=POSITIVE_SIZE, metavar="N", group=_LIMITS, help="Size of a request. Default: 8."),
        Option(
            "--timeout",
            type=POSITIVE_SIZE,
            metavar="SECONDS",
            group=_LIMITS,
            help="Time to answer a request. Default: 300.",
        ),
        Option(
            "--print-unit",
            type=OneOf(("systemd", "launchd")),
            metavar="KIND",
            group=_SERVICE,
            help="Print a service that runs this command: systemd or launchd.",
        ),
        Option("--install", is_flag=True, group=_SERVICE, help="Write that service for this user."),
    ],
    """\
  mlx-hf-bridge serve sentence-transformers/all-MiniLM-L6-v2
  mlx-hf-bridge serve small=BAAI/bge-small-en-v1.5 \\
      rerank=cross-encoder/ms-marco-MiniLM-L6-v2 --quantization q8
  mlx-hf-bridge serve words=naver/splade-v3 --task words=sparse
  MLX_HF_BRIDGE_API_KEY=secret mlx-hf-bridge serve ./my-model --host 0.0.0.0
  mlx-hf-bridge serve ./my-model --print-unit systemd

It answers requests in the forms of OpenAI, Text Embeddings Inference, Cohere
and Jina, and needs the extra `serve`: pip install 'mlx-hf-bridge[serve]'. On
SIGTERM it answers what it has accepted, and ends with 0.""",
)
