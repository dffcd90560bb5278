"""`mlx-hf-bridge encode`: compute the embeddings of texts."""

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.cli.console import show, show_json, table
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import read_texts, shorten, stream_texts
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

_SHOWN_VALUES = 4


def run(args: argparse.Namespace) -> int:
    """Encode the texts and write the embeddings to a .npy or Parquet file, or print a JSON document or a table."""
    if args.output:
        _write(args, Path(args.output).expanduser())
        return 0
    texts = read_texts(args)
    vectors = _model(args).encode(texts, show_progress_bar=False, **_options(args))
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
    if not target.absolute().parent.is_dir():
        raise InputError(f"--output {target} is in a folder that does not exist. Create it, or give another path.")
    texts = stream_texts(args)
    first = next(texts)  # a missing input file is an error before the model is loaded
    model, count = _model(args), itertools.count()
    counted = (text for text, _ in zip(itertools.chain([first], texts), count, strict=False))
    model.encode_to_file(counted, target, show_progress_bar=True, restart=args.restart, **_options(args))
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
