"""Pictures of a report as inline SVG, whose colors are CSS variables, so that they follow the page's color scheme."""

import importlib
import io
from collections.abc import Sequence
from typing import Any

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.verification.report import Report

# Drawn in these colors, then replaced by the page's variables.
_INK, _ACCENT, _LINE, _BAD = "#010203", "#010204", "#010205", "#010206"
_VARIABLES = {_INK: "var(--ink)", _ACCENT: "var(--accent)", _LINE: "var(--line)", _BAD: "var(--bad)"}
_BINS, _TICKS = 30, 4


def cosine_picture(report: Report) -> str:
    """Return a histogram of the texts' cosines, with the mean and its bound marked."""
    figure, axes = _axes("Cosine similarity to the reference, by text", "cosine similarity", "texts")
    # NaN is the one value that does not equal itself.
    finite = [value for value in report.cosines if value == value]
    axes.hist(finite, bins=_BINS, color=_ACCENT, alpha=0.85)
    bound = next((check.bound for check in report.checks if check.name == "cosine_mean"), None)
    marks = [("mean", sum(finite) / len(finite), _INK)] if finite else []
    marks += [("bound for the mean", bound, _BAD)] if bound is not None else []
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.22 * top)
    for row, (text, position, color) in enumerate(marks):
        axes.axvline(position, color=color, linewidth=1.4, linestyle="-" if row == 0 else "--")
        side = "right" if position > sum(axes.get_xlim()) / 2 else "left"
        gap = -4 if side == "right" else 4
        at = (position, (1.18 - 0.09 * row) * top)
        axes.annotate(text, at, (gap, 0), textcoords="offset points", ha=side, va="top", fontsize=8.5, color=color)
    return _svg(figure)


def layer_picture(report: Report) -> str:
    """Return the relative error of the hidden states after each layer."""
    figure, axes = _axes("Relative error of the hidden states, by layer", "layer (0: embeddings)", "relative error, %")
    percent = [100 * error for error in report.layers]
    axes.plot(range(len(percent)), percent, color=_ACCENT, marker="o", markersize=5, linewidth=2)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    return _svg(figure)


def size_picture(reports: Sequence[Report]) -> str:
    """Return the size and mean cosine of each model; the upper left is better."""
    figure, axes = _axes("Small and accurate is up and to the left", "weights, MB", "mean cosine similarity", 8.4)
    for report in reports:
        size, cosine = report.figures["weights_mb"], sum(report.cosines) / len(report.cosines)
        axes.scatter([size], [cosine], color=_ACCENT, s=46, zorder=3)
        name = report.packing.partition(":")[0] or report.model
        axes.annotate(name, (size, cosine), (7, 5), textcoords="offset points", fontsize=8.5, color=_INK)
    axes.set_xlim(left=0, right=1.35 * max(report.figures["weights_mb"] for report in reports))
    axes.margins(y=0.2)
    return _svg(figure)


def standalone_size_picture(reports: Sequence[Report]) -> str:
    """Return `size_picture` as the content of an SVG file, in colors for light and dark pages."""
    # An SVG in a page of its own can follow the color scheme too.
    style = (
        "<style>:root{--ink:#1f2328;--accent:#0b6bcb;--line:#d0d7de;--bad:#b3261e}"
        "@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--accent:#58a6ff;--line:#3d444d;--bad:#ff7b72}}</style>"
    )
    svg = size_picture(reports)
    end = svg.index(">") + 1
    return f"{svg[:end]}{style}{svg[end:]}"


def _axes(title: str, x: str, y: str, width: float = 5.2) -> tuple[Any, Any]:
    try:
        # Figure without pyplot, which would choose a window system and keep every figure in memory.
        figure_class = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise BackendError(
            "the HTML report has pictures drawn by matplotlib, which is not installed. pip install "
            "'mlx-hf-bridge[report]', or leave the HTML report out."
        ) from error
    figure = figure_class(figsize=(width, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.grid(axis="y", color=_LINE, linewidth=1)
    axes.set_axisbelow(True)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=_TICKS)
    axes.set_title(title, fontsize=10.5, color=_INK, loc="left")
    axes.set_xlabel(x, fontsize=9, color=_INK)
    axes.set_ylabel(y, fontsize=9, color=_INK)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    # No date, so that equal reports are equal files.
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    content = buffer.getvalue()
    # Without the XML declaration, which must not stand inside of HTML.
    content = content[content.index("<svg") :]
    for color, variable in _VARIABLES.items():
        content = content.replace(color, variable)
    return content
