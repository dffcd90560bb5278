"""`mlx-hf-bridge qa`: answer a question by a part of a text."""

import argparse
from typing import Any

from mlx_hf_bridge.cli.console import show, show_json
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import read_whole
from mlx_hf_bridge.pipelines import pipeline


def run(args: argparse.Namespace) -> int:
    """Find the answers and print them, best first, with their places in the text."""
    context = read_whole(args)
    answer: Any = pipeline(
        "question-answering", args.model, revision=args.revision, **options_from_flags(args).to_kwargs()
    )
    found = answer(question=args.question, context=context, top_k=args.top_k)
    rows = [
        {"answer": one["answer"], "score": float(one["score"]), "start": int(one["start"]), "end": int(one["end"])}
        for one in (found if isinstance(found, list) else [found])
    ]
    if args.json:
        show_json({"model": args.model, "question": args.question, "answers": rows})
    else:
        show(*(f"{row['score']:.4f}  {' '.join(str(row['answer']).split())}" for row in rows))
    return 0
