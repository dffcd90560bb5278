"""What a verification found, as a table's rows and as JSON."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from mlx_hf_bridge.verification.thresholds import Check


@dataclass(frozen=True)
class Step:
    """One thing that must work, and what was seen of it."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Report:
    """One model beside its reference. figures: by name; checks: those with a bound; steps: what had to work at all.

    cosines: of every text; layers: the relative error of each hidden state, the embeddings' first.
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

    @property
    def passed(self) -> bool:
        """Whether every check and every step passed, and there was one."""
        results = [check.passed for check in self.checks] + [step.passed for step in self.steps]
        return bool(results) and all(results)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is not finite becomes None, which JSON has a word for."""
        content = asdict(self)
        content["checks"] = [{**asdict(check), "passed": check.passed} for check in self.checks]
        return {"passed": self.passed, **_finite(content)}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
