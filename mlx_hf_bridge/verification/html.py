"""Render reports as one self-contained HTML page, from the template report.html."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from mlx_hf_bridge.verification import figures
from mlx_hf_bridge.verification.pictures import cosine_picture, layer_picture, size_picture
from mlx_hf_bridge.verification.report import Report

# The columns of the table of all models.
_OVERVIEW = (
    "cosine_mean",
    "cosine_worst",
    "label_agreement",
    "weights_mb",
    "size_ratio",
    "latency_ms",
    "texts_per_second",
)


def render_html(reports: Sequence[Report]) -> str:
    """Render reports as one HTML page without outside resources.

    Args:
        reports: The results, one for each model.

    Returns:
        The page.

    Raises:
        BackendError: If matplotlib, which draws the pictures, is not installed.
    """
    import jinja2  # here, so that commands that render nothing start without it

    source = resources.files("mlx_hf_bridge.verification").joinpath("report.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    sized = [report for report in reports if "weights_mb" in report.figures and report.cosines]
    return environment.from_string(source).render(
        reports=[_view(report) for report in reports],
        passed=all(report.passed for report in reports),
        failed=sum(not report.passed for report in reports),
        columns=[name for name in _OVERVIEW if any(name in report.figures for report in reports)],
        label=figures.label,
        number=figures.number,
        size_picture=size_picture(sized) if len(sized) > 1 else "",
    )


def _view(report: Report) -> dict[str, Any]:
    """Return what the template shows of a report."""
    checked = {check.name for check in report.checks}
    return {
        "report": report,
        "name": report.model.rstrip("/").rpartition("/")[2] or report.model,
        "others": {name: value for name, value in report.figures.items() if name not in checked},
        "pictures": [cosine_picture(report)] * bool(report.cosines) + [layer_picture(report)] * bool(report.layers),
    }
