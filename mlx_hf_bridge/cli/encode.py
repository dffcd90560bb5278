"""`mlx-hf-bridge encode`: texts become vectors."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from mlx_hf_bridge.cli.console import show, show_json, table
from mlx_hf_bridge.cli.parser import packing_of
from mlx_hf_bridge.cli.texts import read_texts, shortened
from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.sentence_transformers import MLXSentenceTransformer

_SHOWN_VALUES = 4


def run(args: argparse.Namespace) -> int:
    """Encode the texts -> vectors in a .npy file, a JSON document or a table."""
    texts = read_texts(args)
    target = Path(args.output).expanduser() if args.output else None
    if target and not target.absolute().parent.is_dir():
        raise InputError(f"--output {target} is in a folder that is not there. Make it, or give another path.")
    model = MLXSentenceTransformer(args.model, revision=args.revision, **packing_of(args).arguments())
    vectors = model.encode(
        texts,
        prompt_name=args.prompt_name,
        batch_size=args.batch_size,
        normalize_embeddings=args.normalize,
        show_progress_bar=False,
    )
    if target:
        with target.open("wb") as file:
            np.save(file, vectors)
    _show(args, texts, vectors)
    return 0


def _show(args: argparse.Namespace, texts: list[str], vectors: np.ndarray) -> None:
    facts: dict[str, Any] = {"model": args.model, "texts": len(texts), "dimensions": int(vectors.shape[1])}
    if args.json and args.output:
        show_json({**facts, "output": args.output})
    elif args.json:
        rows = zip(texts, vectors.tolist(), strict=True)
        show_json({**facts, "embeddings": [{"text": text, "embedding": vector} for text, vector in rows]})
    elif args.output:
        show(f"{len(texts)} x {vectors.shape[1]} float32 written to {args.output}")
    else:
        columns = ("text", "length", f"first {_SHOWN_VALUES} of {vectors.shape[1]} values")
        show(table("", columns, map(_row, texts, vectors), columns[1:]))


def _row(text: str, vector: np.ndarray) -> list[str]:
    values = "  ".join(f"{value:+.4f}" for value in vector[:_SHOWN_VALUES])
    return [shortened(text), f"{np.linalg.norm(vector):.3f}", values]
