"""Compare several quantizations of one model: size, fidelity, speed and memory of each, and the best for a size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_hf_bridge.errors import InputError
from mlx_hf_bridge.quantization.recipes import MLXQuantizationConfig, recipe_from, recipe_name
from mlx_hf_bridge.runtime.boundary import guarded
from mlx_hf_bridge.verification.pictures import standalone_size_picture
from mlx_hf_bridge.verification.report import Report
from mlx_hf_bridge.verification.verify import verify

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Several quantizations of one model, each compared with the float model.

    Attributes:
        model: The model's Hub id or folder.
        reports: The verification of each quantization, by the recipe's name.
    """

    model: str
    reports: dict[str, Report]

    def best(self, size_mb: float | None = None) -> str | None:
        """Return the recipe whose results are nearest to the float model's.

        Args:
            size_mb: The most MB (2^20 bytes) that the weights may take. Default: no limit.

        Returns:
            The recipe's name; of equally good ones the smallest. None if none is small enough.
        """
        fitting = {
            name: report.figures
            for name, report in self.reports.items()
            if size_mb is None or report.figures["weights_mb"] <= size_mb
        }
        return max(fitting, key=lambda name: (_fidelity(fitting[name]), -fitting[name]["weights_mb"]), default=None)

    def smallest_that_passes(self) -> str | None:
        """Return the recipe of the smallest weights among those that pass their checks; None if none does."""
        passing = {name: report.figures["weights_mb"] for name, report in self.reports.items() if report.passed}
        return min(passing, key=lambda name: passing[name], default=None)

    def picture(self) -> str:
        """Return sizes and mean cosines as an SVG file's content.

        Returns:
            The SVG.

        Raises:
            BackendError: If matplotlib is not installed.
        """
        return standalone_size_picture(list(self.reports.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison for JSON."""
        return {
            "model": self.model,
            "best": self.best(),
            "smallest_that_passes": self.smallest_that_passes(),
            "recipes": {name: report.to_dict() for name, report in self.reports.items()},
        }


@guarded
def compare(
    model: str | Path,
    recipes: Sequence[str | MLXQuantizationConfig],
    *,
    texts: Sequence[str] | None = None,
    task: str | None = None,
    on_recipe: Callable[[str], Any] = lambda name: None,
) -> Comparison:
    """Convert a model in several ways and compare each with its float original.

    Args:
        model: The Hub id or folder of a float checkpoint.
        recipes: Two or more recipes: names, JSON files or MLXQuantizationConfigs.
        texts: Texts to compare on. Default: the texts that come with the package.
        task: "embedding" or "classification". Default: by the architecture in config.json.
        on_recipe: Called with the name of each recipe before it is converted.

    Returns:
        The comparison.

    Raises:
        InputError: If there are not two different recipes.
        BridgeError: Whatever converting or loading the model raises.

    Example:
        >>> found = compare("sentence-transformers/all-MiniLM-L6-v2", ["q8", "q4-best", "mixed-4"])
        >>> found.best(size_mb=14)
        'mixed-4'
    """
    if isinstance(recipes, str):
        raise InputError(f"recipes={recipes!r}, expected a list of two or more recipes.")
    configs = {recipe_name(config): config for config in map(recipe_from, recipes)}
    if len(configs) < 2:
        raise InputError(f"recipes={list(recipes)!r}, expected two or more different recipes, such as q8 and q4-best.")
    reports = {}
    for name, config in configs.items():
        on_recipe(name)
        mx.reset_peak_memory()
        reports[name] = verify(model, quantization_config=config, texts=texts, task=task)
    return Comparison(str(model), reports)


def _fidelity(figures: dict[str, float]) -> float:
    """Return how near a model is to its original: the mean cosine, of a classifier the error of its logits, negated."""
    if "cosine_mean" in figures:
        return figures["cosine_mean"]
    return -figures.get("logit_mean_squared_error", float("inf"))
