"""What each figure of a verification is called, its unit and its digits, for terminals, pages and model cards."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """How a figure is shown.

    Attributes:
        label: What it is, in a few words.
        unit: Its unit; "" for a figure without one.
        digits: Digits after the decimal point.
    """

    label: str
    unit: str = ""
    digits: int = 2


_SIZE, _RATE = "MB", "texts/s"
_FIGURES = {
    "cosine_mean": Figure("cosine similarity, mean", "", 5),
    "cosine_p1": Figure("cosine similarity, 1st percentile", "", 5),
    "cosine_worst": Figure("cosine similarity, worst text", "", 5),
    "mean_squared_error": Figure("mean squared error of unit vectors", "", 5),
    "largest_difference": Figure("largest difference of unit vectors", "", 5),
    "spearman": Figure("Spearman's correlation x 100"),
    "spearman_reference": Figure("Spearman's correlation x 100, reference"),
    "spearman_loss": Figure("loss of Spearman's correlation", "points"),
    "accuracy": Figure("accuracy", "%"),
    "accuracy_reference": Figure("accuracy, reference", "%"),
    "accuracy_loss": Figure("loss of accuracy", "points"),
    "f1": Figure("macro F1", "%"),
    "f1_reference": Figure("macro F1, reference", "%"),
    "f1_loss": Figure("loss of macro F1", "points"),
    "label_agreement": Figure("same label as the reference", "%"),
    "logit_mean_squared_error": Figure("mean squared error of logits", "", 5),
    "logit_largest_difference": Figure("largest difference of logits", "", 5),
    "latency_ms": Figure("latency of one text, median", "ms"),
    "reference_latency_ms": Figure("latency of one text, reference", "ms"),
    "texts_per_second": Figure("throughput", _RATE, 1),
    "reference_texts_per_second": Figure("throughput, reference", _RATE, 1),
    "weights_mb": Figure("weights file", _SIZE, 1),
    "reference_weights_mb": Figure("weights file, reference", _SIZE, 1),
    "size_ratio": Figure("weights relative to the reference", "", 3),
    "folder_mb": Figure("whole folder", _SIZE, 1),
    "peak_memory_mb": Figure("peak memory of MLX arrays", _SIZE, 1),
    "process_peak_mb": Figure("peak memory of this process, reference included", _SIZE, 1),
}


def figure(name: str) -> Figure:
    """Return how a figure is shown.

    Args:
        name: Its name in `Report.figures`.

    Returns:
        Its label, unit and digits.
    """
    return _FIGURES.get(name) or Figure(name.replace("_", " "), "", 5)


def label(name: str) -> str:
    """Return a figure's label with its unit: "latency of one text, median (ms)"."""
    found = figure(name)
    return f"{found.label} ({found.unit})" if found.unit else found.label


def number(name: str, value: float) -> str:
    """Return a figure's value as text; small values in scientific notation."""
    found = figure(name)
    if 0 < abs(value) < 10 ** (1 - found.digits):
        return f"{value:.1e}"
    return f"{value:,.{found.digits}f}"
