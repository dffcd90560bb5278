"""`mlx-hf-bridge compare`: several quantizations of one model next to each other, and the best for a size."""

import argparse
from pathlib import Path

from mlx_hf_bridge.cli.console import note, show, show_json, table
from mlx_hf_bridge.cli.texts import check_output, read_lines
from mlx_hf_bridge.verification.compare import Comparison, compare
from mlx_hf_bridge.verification.html import render_html
from mlx_hf_bridge.verification.report import Report

_FAILED = 1


def run(args: argparse.Namespace) -> int:
    """Compare the recipes and print a table, JSON or a picture; return 1 if none is small enough."""
    for option, path in (("--picture", args.picture), ("--html", args.html)):
        if path:
            check_output(option, path)
    texts = read_lines(args.texts) if args.texts else None
    found = compare(
        args.model, args.recipes, texts=texts, task=args.task, on_recipe=lambda name: note(f"comparing {name} ...")
    )
    best = found.best(args.size_mb)
    if args.json:
        show_json({**found.to_dict(), "size_mb": args.size_mb, "best_for_size": best})
    else:
        _show(found, args.size_mb)
    if args.picture:
        Path(args.picture).expanduser().write_text(found.picture(), encoding="utf-8")
        note(f"wrote {args.picture}")
    if args.html:
        Path(args.html).expanduser().write_text(render_html(list(found.reports.values())), encoding="utf-8")
        note(f"wrote {args.html}")
    return 0 if best else _FAILED


def _show(found: Comparison, size_mb: float | None) -> None:
    first = next(iter(found.reports.values()))
    is_embedding = "cosine_mean" in first.figures
    fidelity = ("mean cosine", "worst") if is_embedding else ("same label %", "largest error")
    columns = ("recipe", "MB", *fidelity, "texts/s", "ms", "memory MB", "")
    show(found.model, f"  compared with {first.reference} on {first.texts} texts", "")
    show(table("", columns, [_row(name, report) for name, report in found.reports.items()], columns[1:-1]), "")
    facts = [("nearest to the float model", found.best()), ("smallest that passes", found.smallest_that_passes())]
    if size_mb is not None:
        facts.append((f"best of at most {size_mb:g} MB", found.best(size_mb) or "none is small enough"))
    show(*(f"{name}: {value or 'none'}" for name, value in facts))


def _row(name: str, report: Report) -> tuple[str, ...]:
    figures = report.figures
    if "cosine_mean" in figures:
        fidelity = f"{figures['cosine_mean']:.5f}", f"{figures['cosine_worst']:.4f}"
    else:
        fidelity = f"{figures['label_agreement']:.1f}", f"{figures.get('logit_largest_difference', float('nan')):.4f}"
    return (
        name,
        f"{figures['weights_mb']:.1f}",
        *fidelity,
        f"{figures['texts_per_second']:,.0f}",
        f"{figures['latency_ms']:.1f}",
        f"{figures['peak_memory_mb']:,.0f}",
        "passed" if report.passed else "FAILED",
    )
