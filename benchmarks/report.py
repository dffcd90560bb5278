"""Write results as JSON, Markdown and a picture."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.charts import Panel, draw_panels
from benchmarks.rivals import BRIDGE
from benchmarks.tasks import Result

_NOT_PICTURED = ("p95", "time per token")
_COLUMNS = 2


def as_markdown(results: Sequence[Result], machine: dict[str, Any], missing: dict[str, str]) -> str:
    """Return a page: the machine, a table of all figures, what was left out, and the goals on Apple Silicon."""
    speeds = ", ".join(f"{name} {speed:,.0f}" for name, speed in machine["speeds"].items())
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items() if number)
    lines = [
        "# Benchmark",
        "",
        f"{machine['system']}; {machine['device']}, {machine['cores']} cores, {machine['backend']}.",
        f"Matrix multiplication in GFLOP/s: {speeds}.",
        f"Versions: {versions}.",
        "",
        "A ratio above 1 is better than the reference: the median of all rounds, then the smallest and the largest.",
        "",
        "| task | system | figure | ratio | from - to |",
        "| --- | --- | ---: | ---: | --- |",
        *(_row(one) for one in results),
    ]
    if missing:
        lines += ["", "Left out: " + "; ".join(f"{name} ({why})" for name, why in missing.items()) + "."]
    lines += ["", "## Goals on Apple Silicon", ""]
    on_metal = machine["backend"] == "metal"
    lines += [f"- {goal}" for goal in apple_goals(results)] if on_metal else ["This machine has no Apple GPU."]
    return "\n".join(lines) + "\n"


def _row(one: Result) -> str:
    ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
    spread = "" if one.spread is None else f"{one.spread[0]:.2f} - {one.spread[1]:.2f}"
    return f"| {one.task} | {one.system} | {one.value:,.4g} {one.unit} | {ratio} | {spread} |"


def apple_goals(results: Sequence[Result]) -> Iterator[str]:
    """Yield each goal with the figure and whether it is met."""
    rates = {one.system: one.value for one in results if one.task.startswith("encode") and "titles" in one.task}
    single = _find(results, "latency of 1 text of 10 tokens, p50", BRIDGE)
    memory = _find(results, "peak memory of that process", "mlx_hf_bridge 8 bits")
    if single is not None:
        yield _goal("a single text under 10 ms", f"{single.value:.1f} ms", single.value < 10)
    reference_rates = [value for name, value in rates.items() if name.startswith("sentence-transformers")]
    for bits, least in ((8, 2.0), (4, 3.0)):
        rate = rates.get(f"mlx_hf_bridge {bits} bits")
        if rate is not None and reference_rates:
            ratio = rate / max(reference_rates)
            yield _goal(f"{bits} bits at {least:.0f} times Hugging Face or more", f"{ratio:.2f}", ratio >= least)
    if memory is not None and memory.ratio:
        yield _goal("about a quarter of its memory", f"{1 / memory.ratio:.2f}", 1 / memory.ratio <= 0.3)


def _find(results: Sequence[Result], task: str, system: str) -> Result | None:
    return next((one for one in results if one.task == task and one.system == system), None)


def _goal(text: str, figure: str, met: bool) -> str:
    return f"{text}: {figure}, {'met' if met else 'not met'}"


def write(folder: Path, results: Sequence[Result], machine: dict[str, Any], missing: dict[str, str]) -> None:
    """Write results.json, results.md and results.svg into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "results": [asdict(one) for one in results], "missing": missing}
    (folder / "results.json").write_text(json.dumps(document, indent=1))
    (folder / "results.md").write_text(as_markdown(results, machine, missing))
    draw(folder / "results.svg", results)


def draw(path: Path, results: Sequence[Result]) -> None:
    """Draw a panel for each task that several systems were timed with, in its own unit."""
    panels: list[Panel] = []
    for task in dict.fromkeys(one.task for one in results):
        systems = {one.system: one.value for one in results if one.task == task}
        if len(systems) > 1 and not task.endswith(_NOT_PICTURED):
            panels.append((task, next(one.unit for one in results if one.task == task), systems))
    if panels:
        draw_panels(path, panels, _COLUMNS)
