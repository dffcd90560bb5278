"""`mlx-hf-bridge rerank`: order texts by how well they answer a query."""

import argparse

from mlx_hf_bridge.cli.console import show, show_json
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import paragraph, read_texts
from mlx_hf_bridge.sentence_transformers import MLXCrossEncoder


def run(args: argparse.Namespace) -> int:
    """Score the texts and print them, best first."""
    texts = read_texts(args)
    model = MLXCrossEncoder(args.model, revision=args.revision, **options_from_flags(args).to_kwargs())
    ranked = model.rank(args.query, texts, top_k=args.top_k, batch_size=args.batch_size)
    # `line` counts from 1, as in the file.
    results = [
        {"line": int(row["corpus_id"]) + 1, "score": float(row["score"]), "text": texts[row["corpus_id"]]}
        for row in ranked
    ]
    if args.json:
        show_json({"model": args.model, "query": args.query, "results": results})
    else:
        show(*(paragraph(f"{row['score']:>9.4f}  ", str(row["text"])) for row in results))
    return 0
