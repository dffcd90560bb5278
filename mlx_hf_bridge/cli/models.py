"""`mlx-hf-bridge models`: list the supported model types with their heads, and why others are not supported."""

import argparse
import sys
from dataclasses import asdict

from mlx_hf_bridge.cli.console import show, show_json, table
from mlx_hf_bridge.cli.support import as_markdown, supported_types


def run(args: argparse.Namespace) -> int:
    """Print the support list as a table, as JSON, or as docs/models.md."""
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
