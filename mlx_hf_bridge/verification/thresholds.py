"""The bounds that a model's figures must meet to pass, by the bits of its weights."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlx_hf_bridge.errors import InputError

# Fewest bits of any weight, and the mean cosine that such a model must exceed.
_COSINES = {8: 0.995, 6: 0.99, 5: 0.985, 4: 0.98, 3: 0.95, 2: 0.5}
_FLOAT_COSINE = 0.9999
_DEFAULTS = {
    "mean_squared_error": 1e-4,
    "largest_difference": 0.1,
    "spearman_loss": 1.0,
    "accuracy_loss": 1.0,
    "f1_loss": 1.0,
    "label_agreement": 95.0,
}
_AT_LEAST = ("cosine_mean", "label_agreement")


@dataclass(frozen=True)
class Check:
    """One figure and its bound; at_least: whether it must be above the bound or below."""

    name: str
    value: float
    bound: float
    at_least: bool

    @property
    def bound_text(self) -> str:
        """Return the bound as a table shows it: "> 0.98"."""
        return f"{'>' if self.at_least else '<'} {self.bound:g}"

    @property
    def passed(self) -> bool:
        """Return whether the figure meets its bound; nan never does."""
        if math.isnan(self.value):
            return False
        # A loss of exactly 0 passes even with a bound of 0.
        return self.value > self.bound if self.at_least else self.value < self.bound or self.value == 0


def resolve_bounds(bits: int | None, overrides: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return the bound of each figure.

    Args:
        bits: The fewest bits of any weight; None for a float model.
        overrides: Bounds by figure that replace the default ones.

    Returns:
        Bounds by figure.

    Raises:
        InputError: If `overrides` has an unknown figure.
    """
    cosine = _FLOAT_COSINE if bits is None else next(value for known, value in _COSINES.items() if bits >= known)
    defaults = {"cosine_mean": cosine, **_DEFAULTS}
    if unknown := sorted(set(overrides or {}) - set(defaults)):
        raise InputError(f"thresholds has {unknown}, which are not known; use {', '.join(defaults)}.")
    return {**defaults, **(overrides or {})}


def check_measured(overrides: Iterable[str], embeds: bool, has_pairs: bool, has_labels: bool) -> None:
    """Raise InputError for bounds of figures that are not measured, which would never be applied.

    Args:
        overrides: Figures that the caller gives bounds for.
        embeds: Whether the model returns embeddings; otherwise it is a classifier.
        has_pairs: Whether scored pairs are given.
        has_labels: Whether labeled texts are given.

    Raises:
        InputError: If there is such a figure; the message says what it needs.
    """
    embedding = dict.fromkeys(("cosine_mean", "mean_squared_error", "largest_difference"), embeds)
    needs = {
        **{name: (measured, "an embedding model") for name, measured in embedding.items()},
        "label_agreement": (not embeds, "a classifier"),
        "spearman_loss": (has_pairs, "pairs (--pairs)"),
        "accuracy_loss": (has_labels, "labelled (--labelled)"),
        "f1_loss": (has_labels, "labelled (--labelled)"),
    }
    for name in overrides:
        measured, needed = needs[name]
        if not measured:
            raise InputError(
                f"thresholds has {name}, which is not measured here: it needs {needed}. Give that, or omit the bound; "
                f"measured are {', '.join(known for known, (here, _) in needs.items() if here)}."
            )


def check_figures(figures: Mapping[str, float], bounds: Mapping[str, float]) -> tuple[Check, ...]:
    """Return a check for every figure that has a bound."""
    return tuple(
        Check(name, figures[name], bound, name in _AT_LEAST) for name, bound in bounds.items() if name in figures
    )
