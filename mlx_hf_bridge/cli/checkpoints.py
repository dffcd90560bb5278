"""The table of checkpoints whose replicas were compared with their reference (tests/replicas)."""

import json
import textwrap
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("checkpoints.json")
_TOTALS = (
    "What became of {count} public checkpoints: {counts}. `mlx-hf-bridge models --checkpoints` prints the same list, "
    "and `mlx-hf-bridge inspect REPO_OR_FOLDER` says the same of any other repo before its weights are downloaded."
)
_WIDTH = 120
_HEADING = """# Checkpoints

{totals}

Each row was tested with a replica: the repo's public layout at a fraction of its size (its configuration keys, files,
tensor names, tokenizer class, modules and prompts) with random weights. No weights of the repos were used, and a repo
may have changed since. A replica is loaded by its natural entry point, through a folder or a cache of the Hub, and its
results are compared to 2e-5 with those of sentence-transformers or transformers on torch. Where only the authors' own
code has the architecture in torch, the reference is an independent implementation in NumPy, since nothing of a repo's
code is run. `PYTHONPATH=tests python -m replicas` repeats the comparison and rewrites the table; the replicas are
described in `tests/replicas/checkpoints.yaml`.

*native*: the model type has an implementation in MLX. *traced*: transformers' own module runs as a graph on MLX
([tracing.md](tracing.md)). *refused*: loading it is an error that gives this reason.
"""


def checkpoints(part: str = "") -> list[dict[str, Any]]:
    """Return the rows of the table.

    Args:
        part: Only rows with this in the name, task or layout, in any case.

    Returns:
        A dict per row: repo, task, dimension, layout, support, compared_with and why.
    """
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return [row for row in rows if part.lower() in f"{row['repo']} {row['task']} {row['layout']}".lower()]


def totals(rows: list[dict[str, Any]]) -> str:
    """Return how many rows there are of each kind of support, as "170 native, 5 traced, 8 refused"."""
    counts = Counter(row["support"] for row in rows)
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("native", "traced", "refused"))


def as_markdown() -> str:
    """Return the page docs/checkpoints.md."""
    rows = checkpoints()
    said = textwrap.fill(_TOTALS.format(count=len(rows), counts=totals(rows)), _WIDTH, break_on_hyphens=False)
    lines = [_HEADING.format(totals=said)]
    for task, group in groupby(rows, key=lambda row: str(row["task"])):
        lines += [f"## {task[0].upper()}{task[1:]}", "", "| repo | size | layout | support | compared with |"]
        lines.append("| --- | ---: | --- | --- | --- |")
        for row in group:
            outcome = row["compared_with"] or row["why"]
            cells = (row["repo"], row["dimension"] or "", row["layout"], row["support"], outcome)
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines)
