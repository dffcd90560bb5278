"""Render reports as one self-contained HTML page, with pictures as inline SVG."""

import html
import importlib
import io
from collections.abc import Sequence
from typing import Any

from mlx_hf_bridge.errors import BackendError
from mlx_hf_bridge.verification.report import Report

_INK, _ACCENT, _SOFT = "#1f2933", "#2f6fde", "#d8dee9"
_STYLE = """
body{font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1f2933;background:#f5f7fa;margin:0}
main{max-width:60rem;margin:2.5rem auto;padding:0 1.25rem}
h1{font-size:1.55rem;margin:0 0 .2rem;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:0 0 .8rem}
p{margin:.2rem 0;color:#52606d;overflow-wrap:anywhere}
section{background:#fff;border:1px solid #e4e7eb;border-radius:12px;padding:1.3rem 1.5rem;margin:1.2rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.4rem .6rem;border-top:1px solid #edf0f3;text-align:left}
td.n{text-align:right}thead th{border:0;color:#7b8794}
.ok{color:#0b7a4b}.bad{color:#b42318}.mark{font-weight:600}
.badge{display:inline-block;padding:.15rem .75rem;border-radius:999px;font-weight:600;background:#e3f5ec}
.badge.bad{background:#fdeceb}svg{max-width:100%;height:auto}.pictures{display:grid;gap:1rem}
@media(min-width:52rem){.pictures.two{grid-template-columns:1fr 1fr}}
"""


def render_html(reports: Sequence[Report]) -> str:
    """Return one HTML page for all reports; BackendError if matplotlib, which draws the pictures, is not installed."""
    body = "".join(_model_sections(report) for report in reports)
    together = ""
    sized = [report for report in reports if "weights_mb" in report.figures and report.cosines]
    if sized:
        together = f"<section><h2>Size and accuracy</h2>{_size_picture(sized)}</section>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><title>mlx-hf-bridge verify</title>'
        f"<style>{_STYLE}</style></head><body><main>{body}{together}</main></body></html>"
    )


def _model_sections(report: Report) -> str:
    css_class, verdict = ("ok", "passed") if report.passed else ("bad", "failed")
    checks = "".join(
        f"<tr><td>{_label(check.name)}</td><td class=n>{_number(check.value)}</td>"
        f"<td class=n>{html.escape(check.bound_text)}</td>{_mark(check.passed)}</tr>"
        for check in report.checks
    )
    steps = "".join(
        f"<tr><td>{html.escape(step.name)}</td><td>{html.escape(step.detail)}</td>"
        f"{_mark(step.passed, step.skipped)}</tr>"
        for step in report.steps
    )
    figures = "".join(
        f"<tr><td>{_label(name)}</td><td class=n>{_number(value)}</td></tr>" for name, value in report.figures.items()
    )
    return (
        f"<section><h1>{html.escape(report.model)}</h1><p><span class='badge {css_class}'>{verdict}</span></p>"
        f"<p>{html.escape(report.packing)}; {report.texts} texts; reference: {html.escape(report.reference)}</p>"
        "</section>"
        f"<section><h2>Checks</h2><table><thead><tr><th>figure</th><th>value</th><th>bound</th><th></th></tr></thead>"
        f"{checks}</table><table>{steps}</table></section>"
        f"<section><h2>Pictures</h2><div class='pictures two'>{_cosine_picture(report)}{_layer_picture(report)}</div>"
        f"</section><section><h2>All figures</h2><table>{figures}</table></section>"
    )


def _mark(passed: bool, skipped: bool = False) -> str:
    if skipped:
        return "<td class='n mark'>-</td>"
    return f"<td class='n mark {'ok' if passed else 'bad'}'>{'✓' if passed else '✗'}</td>"


def _label(name: str) -> str:
    return html.escape(name.replace("_", " "))


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:,.5f}" if abs(value) < 1.5 else f"{value:,.2f}"


def _axes(width: float = 5.2, height: float = 3.2) -> tuple[Any, Any]:
    try:
        # Figure without pyplot, which would choose a window system and keep every figure in memory.
        figure_class = importlib.import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise BackendError(
            "the HTML report has pictures drawn by matplotlib, which is not installed. pip install "
            "'mlx-hf-bridge[report]', or leave the HTML report out."
        ) from error
    figure = figure_class(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_SOFT)
    axes.tick_params(colors=_INK, labelsize=9, length=0)
    axes.grid(axis="y", color="#edf0f3", linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    # No date, so that equal reports are equal files.
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    content = buffer.getvalue()
    # Without the XML declaration, which must not stand inside of HTML.
    return content[content.index("<svg") :]


def _cosine_picture(report: Report) -> str:
    figure, axes = _axes()
    # NaN is the one value that does not equal itself.
    finite = [value for value in report.cosines if value == value]
    axes.hist(finite, bins=30, color=_ACCENT, edgecolor="white", linewidth=0.6)
    axes.set_title("Cosine similarity to the reference, by text", fontsize=10.5, color=_INK, loc="left")
    axes.set_xlabel("cosine", fontsize=9, color=_INK)
    axes.set_ylabel("texts", fontsize=9, color=_INK)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(axis="x", nbins=5)
    return _svg(figure)


def _layer_picture(report: Report) -> str:
    figure, axes = _axes()
    percent = [100 * error for error in report.layers]
    axes.plot(range(len(percent)), percent, color=_ACCENT, marker="o", markersize=5, linewidth=2)
    axes.fill_between(range(len(percent)), percent, color=_ACCENT, alpha=0.12)
    axes.set_ylim(bottom=0)
    axes.set_title("Relative error of the hidden states, by layer", fontsize=10.5, color=_INK, loc="left")
    axes.set_xlabel("layer (0 = embeddings)", fontsize=9, color=_INK)
    axes.set_ylabel("relative error, %", fontsize=9, color=_INK)
    if len(percent) <= 25:
        axes.set_xticks(range(0, len(percent), 1 if len(percent) <= 13 else 2))
    return _svg(figure)


def _size_picture(reports: Sequence[Report]) -> str:
    figure, axes = _axes(8.4, 3.8)
    for report in reports:
        size, cosine = report.figures["weights_mb"], sum(report.cosines) / len(report.cosines)
        axes.scatter([size], [cosine], color=_ACCENT, s=46, zorder=3)
        name = report.model.rstrip("/").rpartition("/")[2]
        axes.annotate(name, (size, cosine), (7, 5), textcoords="offset points", fontsize=8.5, color=_INK)
    axes.set_xlim(left=0, right=1.35 * max(report.figures["weights_mb"] for report in reports))
    axes.margins(y=0.2)
    axes.ticklabel_format(useOffset=False)
    axes.set_xlabel("weights, MB", fontsize=9, color=_INK)
    axes.set_ylabel("mean cosine", fontsize=9, color=_INK)
    return _svg(figure)
