"""Write results as JSON, Markdown and a picture."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.rivals import BRIDGE, REFERENCE
from benchmarks.tasks import Result

_OUR_COLOR, _OTHER_COLOR, _SPREAD_COLOR, _REFERENCE_COLOR = "#3b6fb6", "#b9bec7", "#20242c", "#c0392b"
_NOT_PICTURED = ("p95", "time per token")


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
    """Write results.json, results.md and ratios.svg into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "results": [asdict(one) for one in results], "missing": missing}
    (folder / "results.json").write_text(json.dumps(document, indent=1))
    (folder / "results.md").write_text(as_markdown(results, machine, missing))
    draw(folder / "ratios.svg", results)


def draw(path: Path, results: Sequence[Result]) -> None:
    """Draw a bar for every ratio to a reference except 95th percentiles; the reference is the line at 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chosen = [one for one in results if one.ratio not in (None, 1.0) and not one.task.endswith(_NOT_PICTURED)]
    tasks = list(dict.fromkeys(one.task for one in chosen))
    if not chosen:
        return
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.24 * (len(chosen) + 1.6 * len(tasks))))
    ticks: list[tuple[float, str]] = []
    position = 0.0
    for task in tasks:
        axes.text(0.42, position, task, fontsize=8.5, fontweight="bold", va="center")
        for one in (one for one in chosen if one.task == task):
            position += 1
            _bar(axes, position, one)
            ticks.append((position, one.system))
        position += 1.6
    axes.axvline(1, color=_REFERENCE_COLOR, linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xlim(0.4, 1.5 * max(one.ratio or 1 for one in chosen))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_yticks([position for position, _ in ticks], [name for _, name in ticks], fontsize=8)
    axes.set_ylim(position - 0.6, -0.8)
    axes.set_xlabel(f"times as good as the reference ({REFERENCE}, or transformers' pipeline)", fontsize=8.5)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _bar(axes: Any, position: float, one: Result) -> None:
    ratio = one.ratio or 0.0
    color = _OUR_COLOR if one.system.startswith("mlx_hf_bridge") else _OTHER_COLOR
    axes.barh(position, ratio - 1, left=1, height=0.72, color=color)
    if one.spread is not None:
        axes.plot(one.spread, (position, position), color=_SPREAD_COLOR, linewidth=1)
    axes.text(max(1, ratio, *(one.spread or (0, 0))) * 1.03, position, f"{ratio:.2f}", fontsize=7.5, va="center")
