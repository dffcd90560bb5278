"""The result of a verification, as data and as JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mlx_hf_bridge.verification.thresholds import Check


@dataclass(frozen=True)
class Step:
    """One thing that must work, whether it did, and what was observed; `skipped` if it could not be checked."""

    name: str
    passed: bool
    detail: str
    skipped: bool = False

    @property
    def verdict(self) -> str:
        """Return "ok", "FAILED" or "skipped"."""
        return "skipped" if self.skipped else "ok" if self.passed else "FAILED"


@dataclass(frozen=True)
class Report:
    """The comparison of one model with its reference.

    model, reference: what was compared. task: "embedding" or "classification". packing: the model's quantization in
    words. texts: how many. figures: all measurements by name. checks: the figures that have a bound. steps: what must
    work at all. cosines: one for each text. layers: the relative error of each hidden state, that of the embeddings
    first. libraries: versions by name. better_recipes: recipes of the same size with smaller errors. machine: what it
    ran on. date: when, in UTC. command: the command line; "" in Python.
    """

    model: str
    reference: str
    task: str
    packing: str
    texts: int
    figures: dict[str, float]
    checks: tuple[Check, ...]
    steps: tuple[Step, ...] = ()
    cosines: tuple[float, ...] = ()
    layers: tuple[float, ...] = ()
    libraries: dict[str, str] = field(default_factory=dict)
    better_recipes: tuple[str, ...] = ()
    machine: str = ""
    date: str = ""
    command: str = ""

    @property
    def passed(self) -> bool:
        """Return whether there was a check or step and every one passed."""
        results = [check.passed for check in self.checks] + [step.passed for step in self.steps if not step.skipped]
        return bool(results) and all(results)

    @property
    def provenance(self) -> dict[str, str]:
        """Return what the report says about how it was made, by name; only what is known."""
        versions = ", ".join(f"{name} {version}" for name, version in self.libraries.items())
        facts = {
            "model": self.model,
            "command": self.command,
            "date": self.date,
            "machine": self.machine,
            "versions": versions,
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def advice(self) -> str:
        """Return what to try after a failure, in one sentence; "" if the model passed or there is nothing to try."""
        if self.passed or not self.better_recipes:
            return ""
        return (
            "Weights that are only rounded often fail at few bits. Recipes of the same size with smaller errors: "
            f"{', '.join(self.better_recipes)} (--recipe NAME)."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON, which has no nan and infinity: they become None."""
        content = asdict(self)
        content["checks"] = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"passed": self.passed, **_finite(content)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
