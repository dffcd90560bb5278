"""`mlx-hf-bridge fill-mask`: fill in the missing words of texts."""

import argparse
from typing import Any

from mlx_hf_bridge.cli.console import show, show_json
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import read_texts, shorten, split_labels
from mlx_hf_bridge.pipelines import pipeline

# What people write for a missing word, whatever the model's own token is.
_MASKS = ("[MASK]", "<mask>")


def run(args: argparse.Namespace) -> int:
    """Fill in the words and print them, best first, for each mask of each text."""
    texts = read_texts(args)
    fill: Any = pipeline("fill-mask", args.model, revision=args.revision, **options_from_flags(args).to_kwargs())
    mask = fill.tokenizer.mask_token
    masked = [_with_mask(text, mask) for text in texts]
    targets = {"targets": split_labels(args.targets)} if args.targets else {}
    rows = [_by_mask(fill(text, top_k=args.top_k, **targets)) for text in masked]
    if args.json:
        results = [{"text": text, "masks": row} for text, row in zip(masked, rows, strict=True)]
        show_json({"model": args.model, "results": results})
        return 0
    for text, masks in zip(masked, rows, strict=True):
        show(shorten(text, 80))
        for number, words in enumerate(masks, 1):
            named = f" {number}" if len(masks) > 1 else ""
            show(*(f"  mask{named}  {one['score']:.4f}  {one['token'].strip()}" for one in words))
    return 0


def _with_mask(text: str, mask: str | None) -> str:
    if mask and mask not in text:
        for written in _MASKS:
            text = text.replace(written, mask)
    return text


def _by_mask(found: Any) -> list[list[dict[str, Any]]]:
    """Return the words of each mask; transformers returns no outer list for a single one."""
    masks = found if found and isinstance(found[0], list) else [found]
    return [[{"token": one["token_str"], "score": float(one["score"])} for one in words] for words in masks]
