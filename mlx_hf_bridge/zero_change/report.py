"""What ran on MLX, what fell back to torch and why, with calls and seconds of each."""

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.errors import FallBackError

logger = logging.getLogger(__name__)

_turn = threading.Lock()


@dataclass
class Record:
    """One model that was loaded: its calls and their seconds on either side, and why it left MLX, if it did.

    torch_calls: None = not watched.
    """

    model: str
    hf_class: str
    mlx_calls: int = 0
    mlx_seconds: float = 0.0
    torch_calls: int | None = None
    torch_seconds: float = 0.0
    reason: str | None = None

    def on_mlx(self, seconds: float) -> None:
        """Count a call that MLX answered."""
        with _turn:
            self.mlx_calls += 1
            self.mlx_seconds += seconds

    def on_torch(self, seconds: float) -> None:
        """Count a call that torch answered."""
        with _turn:
            self.torch_calls = (self.torch_calls or 0) + 1
            self.torch_seconds += seconds

    def fall_back(self, reason: str, strict: bool) -> None:
        """Note and log why the model goes to torch; FallBackError where that was forbidden."""
        self.reason = reason
        if strict:
            raise FallBackError(
                f"{self.hf_class} of {self.model!r} would go to torch: {reason}. Run without strict to allow that, or "
                "without zero-change mode."
            )
        logger.warning("%s of %r goes to torch: %s", self.hf_class, self.model, reason)


@dataclass
class Report:
    """Every model that was loaded since zero-change mode was installed, in that order."""

    records: list[Record] = field(default_factory=list)

    def __str__(self) -> str:
        """A line for each model and side that it ran on, and why it left MLX."""
        lines = ["mlx_hf_bridge: what ran where", _line("on", "calls", "seconds", "model")]
        for record in self.records:
            name = f"{record.hf_class} {record.model}"
            if record.mlx_calls or record.reason is None:
                lines.append(_line("MLX", record.mlx_calls, f"{record.mlx_seconds:.3f}", name))
            if record.reason is not None:
                lines.append(_torch_line(record, name))
                lines.append(f"{'':25}because {record.reason}")
        return "\n".join(lines if self.records else [*lines[:1], "no model was loaded"])


def _torch_line(record: Record, name: str) -> str:
    if record.torch_calls is None:
        return _line("torch", "-", "-", name)
    return _line("torch", record.torch_calls, f"{record.torch_seconds:.3f}", name)


def _line(side: Any, calls: Any, seconds: Any, name: str) -> str:
    return f"{side:<6}{calls:>7}{seconds:>10}  {name}"
