"""`mlx-hf-bridge ner`: find the entities in texts, and print or write them highlighted."""

import argparse
from pathlib import Path
from typing import Any

from mlx_hf_bridge.cli.console import note, show, show_json
from mlx_hf_bridge.cli.entity_page import entity_page
from mlx_hf_bridge.cli.quantization_options import options_from_flags
from mlx_hf_bridge.cli.texts import check_output, read_texts, split_labels
from mlx_hf_bridge.pipelines import pipeline

Entities = list[dict[str, Any]]


def run(args: argparse.Namespace) -> int:
    """Find the entities and print the texts with them, as JSON, or as a page."""
    if args.html:
        check_output("--html", args.html)
    texts = read_texts(args)
    found = _entities(args, texts)
    if args.json:
        results = [{"text": text, "entities": entities} for text, entities in zip(texts, found, strict=True)]
        show_json({"model": args.model, "results": results})
    elif not args.html:
        show(*(line for text, entities in zip(texts, found, strict=True) for line in _shown(text, entities)))
    if args.html:
        page = entity_page(args.model, list(zip(texts, found, strict=True)))
        Path(args.html).expanduser().write_text(page, encoding="utf-8")
        note(f"wrote {args.html}")
    return 0


def _entities(args: argparse.Namespace, texts: list[str]) -> list[Entities]:
    """Return for each text its entities: label, text, start, end and score."""
    options = {"model": args.model, "revision": args.revision, **options_from_flags(args).to_kwargs()}
    if args.labels is not None:
        labels = split_labels(args.labels)
        rows = pipeline("zero-shot-ner", **options)(texts, labels=labels, batch_size=args.batch_size)
        return [[_entity(one["label"], one) for one in row] for row in rows]
    tagger = pipeline("token-classification", **options)
    rows = tagger(texts, aggregation_strategy=args.aggregation, batch_size=args.batch_size)
    return [[_entity(one["entity_group"], one) for one in row] for row in rows]


def _entity(label: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"label": label, "start": int(found["start"]), "end": int(found["end"]), "score": float(found["score"])}


def _shown(text: str, entities: Entities) -> list[Any]:
    """Return a text with its entities marked, on a terminal in color, and a line for each entity."""
    from rich.text import Text

    line = Text(text)
    for one in entities:
        line.stylize("bold reverse", one["start"], one["end"])
    rows = [f"  {one['label']:<10} {one['score']:.3f}  {text[one['start'] : one['end']]}" for one in entities]
    return [line, Text("\n".join(rows) if rows else "  no entities"), Text("")]
