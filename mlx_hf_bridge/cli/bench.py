"""`mlx-hf-bridge bench`: one quick measurement of a model's speed on this machine."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_hf_bridge.cli.console import note, show, show_json, table
from mlx_hf_bridge.cli.texts import read_lines
from mlx_hf_bridge.runtime.device import machine_name
from mlx_hf_bridge.verification.bench import Speed, bench


def run(args: argparse.Namespace) -> int:
    """Measure the model in each quantization and print a table or JSON."""
    recipes: list[Any] = args.recipes or _default(args.model)
    found = bench(
        args.model,
        recipes,
        texts=read_lines(args.texts) if args.texts else None,
        task=args.task,
        reference=not args.no_reference,
        on_model=lambda name: note(f"measuring {name} ..."),
    )
    if args.json:
        show_json({"model": args.model, "machine": machine_name(), "measurements": [asdict(one) for one in found]})
        return 0
    columns = ("", "texts/s", "ms for one text", "load s", "memory MB")
    show(args.model, f"  on {machine_name()}", "")
    show(table("", columns, map(_row, found), columns[1:]))
    return 0


def _default(model: str) -> list[Any]:
    """Return the quantizations that are measured by default; a converted folder has its own."""
    return [None] if Path(model, "conversion_metadata.json").is_file() else [None, "q8"]


def _row(speed: Speed) -> tuple[str, ...]:
    return (
        speed.name,
        f"{speed.texts_per_second:,.0f}",
        f"{speed.latency_ms:.1f}",
        f"{speed.load_seconds:.2f}",
        "" if speed.peak_memory_mb is None else f"{speed.peak_memory_mb:,.0f}",
    )
