"""Bar charts of benchmark results: a panel for each task, in its own unit, with the better direction named."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The systems' colors, in every picture the same: ours in blue, the reference in orange, others in gray.
COLORS = {
    "mlx_hf_bridge float32": "#1f5fbf",
    "mlx_hf_bridge 8 bits": "#5b93dd",
    "mlx_hf_bridge 4 bits": "#9cc0ee",
    "sentence-transformers": "#d9822b",
    "transformers": "#d9822b",
    "ONNX Runtime": "#8b94a0",
}
_OTHER = "#b9bec7"
_LESS_IS_BETTER = ("ms", "s", "MiB", "us")
# Inches.
_PANEL_WIDTH, _BAR_HEIGHT, _PANEL_MARGIN = 4.2, 0.23, 0.62

Panel = tuple[str, str, Mapping[str, float]]


def color(system: str) -> str:
    """Return the color of a system."""
    return next((found for name, found in COLORS.items() if system.startswith(name)), _OTHER)


def draw_panels(path: Path, panels: Sequence[Panel], columns: int, note: str = "") -> None:
    """Draw panels side by side, in rows.

    Args:
        path: The SVG file to write.
        panels: For each panel its title, its unit, and the systems with their figures.
        columns: Panels in a row.
        note: A line below the panels.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    # As many places in every panel, so that all bars are equally thick.
    bars = max(len(systems) for _, _, systems in panels)
    height = rows * (_PANEL_MARGIN + _BAR_HEIGHT * bars)
    # Text stays text, in the reader's font; ids that do not change from run to run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem, "font.family": "sans-serif"}):
        figure = Figure(figsize=(_PANEL_WIDTH * columns, height + (0.25 if note else 0)), layout="constrained")
        figure.patch.set_facecolor("white")
        for index, panel in enumerate(panels):
            axes = figure.add_subplot(rows, columns, index + 1)
            _draw_panel(axes, *panel)
            axes.set_ylim(bars - 0.5, -0.5)
            axes.spines["left"].set_bounds(-0.5, len(panel[2]) - 0.5)
        if note:
            figure.supxlabel(note, fontsize=8.5, color="#5a6470", x=0.01, ha="left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Date": None})


def _draw_panel(axes: Any, title: str, unit: str, systems: Mapping[str, float]) -> None:
    better = "less is better" if unit in _LESS_IS_BETTER else "more is better"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=17)
    axes.text(0, 1.04, f"{unit}, {better}", transform=axes.transAxes, fontsize=8.5, color="#5a6470")
    names = list(systems)
    largest = max(systems.values())
    for position, (name, value) in enumerate(systems.items()):
        axes.barh(position, value, height=0.72, color=color(name))
        axes.text(value + 0.015 * largest, position, _figure(value), fontsize=8.5, va="center")
    axes.set_yticks(range(len(names)), names, fontsize=8.5)
    axes.set_xlim(0, 1.18 * largest)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color("#c9ced6")


def _figure(value: float) -> str:
    """Return a figure with three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
