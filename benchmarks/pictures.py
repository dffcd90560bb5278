"""Draw the pictures of README and docs/performance.md from the stored measurements in docs/performance.json.

python -m benchmarks.pictures [--results benchmarks/results/results.json]
With --results, the results of `python -m benchmarks` are stored first, in place of those of the same task and system.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import Panel, draw_panels

DOCS = Path(__file__).parent.parent / "docs"
FIGURES, IMAGES = DOCS / "performance.json", DOCS / "images"
PAGE, MARKERS = DOCS / "performance.md", ("<!-- table -->", "<!-- end of table -->")
_TORCH = "sentence-transformers, torch CPU"
# README's picture: the systems in it, and a short title for each task.
_SHORT_NAMES = {
    "mlx_hf_bridge float32": "mlx_hf_bridge float32",
    "mlx_hf_bridge 8 bits": "mlx_hf_bridge 8 bits",
    _TORCH: "sentence-transformers",
    "ONNX Runtime float32": "ONNX Runtime float32",
}
_README = {
    "encode 2000 titles and articles": "News articles",
    "encode short queries": "Short queries",
    "latency of 1 text of 10 tokens, p50": "One query",
    "cold start to first embedding": "Cold start",
}
# Picture -> its columns, and the tasks of its panels with their titles.
_BY_TASK: dict[str, tuple[int, dict[str, str]]] = {
    "encoding": (
        2,
        {
            "encode 2000 titles and articles": "Titles and articles",
            "encode short queries": "Short queries",
            "encode batches of 32 x 64 tokens": "Texts of 64 tokens",
            "encode long texts": "Long texts",
            "encode with BERT-base (random weights)": "BERT-base, articles",
        },
    ),
    "pipelines": (
        2,
        {
            "zero-shot, 100 titles x 10 labels": "Zero-shot, 100 titles",
            "zero-shot, 100 titles and articles x 10 labels": "Zero-shot, 100 articles",
            "rerank 1 query x 200 passages": "Reranking 200 passages",
        },
    ),
    "latency": (
        2,
        {
            "latency of 1 text of 10 tokens, p50": "1 query",
            "latency of 8 texts of 10 tokens, p50": "8 queries",
            "latency of 64 texts of 10 tokens, p50": "64 queries",
        },
    ),
    "cold-start": (
        2,
        {
            "cold start to first embedding": "First embedding",
            "peak memory of that process": "Peak memory",
        },
    ),
}


def panel(results: Sequence[dict[str, Any]], task: str, title: str, names: dict[str, str] | None = None) -> Panel:
    """Return the panel of a task, with all systems or those that `names` renames."""
    found = {one["system"]: one for one in results if one["task"] == task}
    kept = {names[system] if names else system: found[system]["value"] for system in names or found if system in found}
    return title, next(iter(found.values()))["unit"], kept


def draw_all(results: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write the pictures of these results into a folder."""
    draw_panels(
        folder / "performance.svg",
        [panel(results, task, title, _SHORT_NAMES) for task, title in _README.items()],
        2,
        "all-MiniLM-L6-v2 on two CPU cores (AMD EPYC). Cold start of ONNX Runtime: not measured.",
    )
    for name, (columns, tasks) in _BY_TASK.items():
        draw_panels(folder / f"{name}.svg", [panel(results, task, title) for task, title in tasks.items()], columns)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Return all figures as a Markdown table."""
    lines = ["| task | system | figure | ratio | from - to |", "| --- | --- | ---: | ---: | --- |"]
    for one in results:
        ratio = "" if one["ratio"] is None else f"{one['ratio']:.2f}"
        spread = "" if one["spread"] is None else f"{one['spread'][0]:.2f} - {one['spread'][1]:.2f}"
        lines.append(f"| {one['task']} | {one['system']} | {one['value']:,.4g} {one['unit']} | {ratio} | {spread} |")
    return "\n".join(lines)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--results", type=Path)
    given = arguments.parse_args()
    results = json.loads(FIGURES.read_text(encoding="utf-8"))
    if given.results:
        measured = json.loads(given.results.read_text(encoding="utf-8"))["results"]
        by_name = {(one["task"], one["system"]): one for one in [*results, *measured]}
        results = list(by_name.values())
        FIGURES.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw_all(results, IMAGES)
    text, (start, end) = PAGE.read_text(encoding="utf-8"), MARKERS
    before, after = text.partition(start)[0], text.partition(end)[2]
    PAGE.write_text(f"{before}{start}\n{table(results)}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
