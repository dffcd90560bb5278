"""`mlx-hf-bridge models`: list the supported model types with their heads, and why others are not supported."""

import argparse
import sys
from dataclasses import asdict
from itertools import groupby
from typing import Any

from mlx_hf_bridge.cli import checkpoints
from mlx_hf_bridge.cli.console import show, show_json, table
from mlx_hf_bridge.cli.support import as_markdown, supported_types


def run(args: argparse.Namespace) -> int:
    """Print the support list as a table, as JSON, or as docs/models.md; or the same of checkpoints."""
    if args.checkpoints is not None:
        return _show_checkpoints(args)
    if args.markdown:
        sys.stdout.write(as_markdown())
    elif args.json:
        show_json([asdict(row) for row in supported_types()])
    else:
        rows = supported_types()
        native = [
            (row.model_type, ", ".join(head.removeprefix("For") for head in row.heads)) for row in rows if row.heads
        ]
        show(table(f"Native ({len(native)})", ("model_type", "classes"), native), "")
        refused = [(row.model_type, row.reason) for row in rows if row.reason]
        show(table(f"Not native ({len(refused)})", ("model_type", "why"), refused))
    return 0


def _show_checkpoints(args: argparse.Namespace) -> int:
    rows = checkpoints.checkpoints(args.checkpoints)
    if args.markdown:
        sys.stdout.write(checkpoints.as_markdown())
    elif args.json:
        show_json(rows)
    else:
        show(*_listing(rows))
    return 0


def _listing(rows: list[dict[str, Any]]) -> list[str]:
    """Return lines without columns that would break a repo's name: its support and size, then the name."""
    lines = [f"{len(rows)} checkpoints: {checkpoints.totals(rows)}"]
    for task, group in groupby(rows, key=lambda row: row["task"]):
        lines += ["", f"{task[0].upper()}{task[1:]}"]
        for row in group:
            lines.append(f"  {row['support']:7} {row['dimension'] or '':>5}  {row['repo']}")
            if row["why"]:
                lines.append(f"{'':17}{row['why']}")
    return lines
