"""Compare every replica with its reference, print the totals, and rewrite the table of checkpoints.

    PYTHONPATH=tests python -m replicas [--only PART_OF_A_NAME]

transformers' own tokenizers of some rows need `pip install fugashi ipadic unidic-lite sacremoses`.
"""

import argparse
import collections
import importlib.util
import json
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "goldens"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
import transformers

import mlx_hf_bridge
from replicas.build import build
from replicas.compare import outcome
from replicas.table import Replica, listed, replicas

TABLE = Path(mlx_hf_bridge.__file__).parent / "cli" / "checkpoints.json"


def main() -> int:
    """Return 1 if a replica is neither the same as its reference nor refused with its reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of the repos' names; the table is not rewritten then")
    only = parser.parse_args().only
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = [row for row in replicas() if only in row.repo]
    counts = collections.Counter(_compared(row) for row in rows)
    sys.stdout.write(
        f"{len(rows)} rows: "
        + ", ".join(f"{counts[k]} {k}" for k in ("same", "refused", "skipped", "different"))
        + "\n"
    )
    if not only and not counts["different"] + counts["skipped"]:
        lines = ",\n".join(json.dumps(listed(row), ensure_ascii=False) for row in rows)
        TABLE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return int(counts["different"] > 0)


def _compared(row: Replica) -> str:
    if missing := [package for package in row.needs if importlib.util.find_spec(package) is None]:
        sys.stdout.write(f"{'skipped':10} {row.entry:24} {row.repo} needs {', '.join(missing)}\n")
        return "skipped"
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLX_HF_BRIDGE_CACHE"] = f"{scratch}/cache"
        build(Path(scratch) / "repo", row)
        found, text = outcome(Path(scratch) / "repo", row)
    sys.stdout.write(f"{found:10} {row.entry:24} {row.repo} {text[:300]}\n")
    sys.stdout.flush()
    return found


if __name__ == "__main__":
    sys.exit(main())
