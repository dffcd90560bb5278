"""`mlx-hf-bridge encode`: compute the embeddings of texts."""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.cli.console import show, show_json, table
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import Lines, check_output, count_lines, read_texts, shorten, stream_texts
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

_SHOWN_VALUES = 4


def run(args: argparse.Namespace) -> int:
    """Encode the texts and write the embeddings to a .npy or Parquet file, or print a JSON document or a table."""
    if args.output:
        _write(args, Path(args.output).expanduser())
        return 0
    texts = read_texts(args)
    vectors = _model(args).encode(texts, show_progress_bar=bool(args.file) and not args.quiet, **_options(args))
    _show(args, texts, vectors)
    return 0


def _model(args: argparse.Namespace) -> MLXSentenceTransformer:
    return MLXSentenceTransformer(args.model, revision=args.revision, **options_from_flags(args).to_kwargs())


def _options(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "prompt_name": args.prompt_name,
        "batch_size": args.batch_size,
        "normalize_embeddings": args.normalize,
    }


def _write(args: argparse.Namespace, target: Path) -> None:
    """Write the embeddings to a file of any size; continues where an interrupted run stopped."""
    check_output("--output", args.output)
    texts = stream_texts(args)
    first = next(texts)  # a missing input file is an error before the model is loaded
    model, count = _model(args), itertools.count()
    counted = (text for text, _ in zip(itertools.chain([first], texts), count, strict=False))
    lines = Lines(counted, count_lines(args.file) if args.file else len(args.text))
    model.encode_to_file(lines, target, show_progress_bar=not args.quiet, restart=args.restart, **_options(args))
    number, dimensions = next(count), model.get_embedding_dimension()
    if args.json:
        show_json({"model": args.model, "texts": number, "dimensions": dimensions, "output": args.output})
    else:
        show(f"{number} x {dimensions} float32 written to {args.output}")


def _show(args: argparse.Namespace, texts: list[str], vectors: np.ndarray) -> None:
    facts: dict[str, Any] = {"model": args.model, "texts": len(texts), "dimensions": int(vectors.shape[1])}
    if args.json:
        rows = zip(texts, vectors.tolist(), strict=True)
        show_json({**facts, "embeddings": [{"text": text, "embedding": vector} for text, vector in rows]})
    else:
        columns = ("text", "length", f"first {_SHOWN_VALUES} of {vectors.shape[1]} values")
        show(table("", columns, map(_row, texts, vectors), columns[1:]))


def _row(text: str, vector: np.ndarray) -> list[str]:
    values = "  ".join(f"{value:+.4f}" for value in vector[:_SHOWN_VALUES])
    return [shorten(text), f"{np.linalg.norm(vector):.3f}", values]
