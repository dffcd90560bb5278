"""The bounds that a model's figures must meet to pass, by the bits of its weights."""

import math
from collections.abc import Mapping
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


def check_figures(figures: Mapping[str, float], bounds: Mapping[str, float]) -> tuple[Check, ...]:
    """Return a check for every figure that has a bound."""
    return tuple(
        Check(name, figures[name], bound, name in _AT_LEAST) for name, bound in bounds.items() if name in figures
    )
