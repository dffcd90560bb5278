"""What ran on MLX and what fell back to torch, with the reason, calls and seconds."""

import logging
import threading
from dataclasses import dataclass, field
from typing import Any

from mlx_hf_bridge.errors import FallBackError

logger = logging.getLogger(__name__)

# Models may be called from several threads, and += is not atomic.
_lock = threading.Lock()


@dataclass
class Record:
    """One model that was loaded.

    Attributes:
        model: The Hub id or folder.
        hf_class: The transformers class.
        mlx_calls: Calls of forward on MLX.
        mlx_seconds: Their time.
        torch_calls: Calls of forward on torch; None if they are not counted.
        torch_seconds: Their time.
        reason: Why the model fell back to torch; None if it did not.
    """

    model: str
    hf_class: str
    mlx_calls: int = 0
    mlx_seconds: float = 0.0
    torch_calls: int | None = None
    torch_seconds: float = 0.0
    reason: str | None = None

    def count_mlx_call(self, seconds: float) -> None:
        """Count a call that MLX computed."""
        with _lock:
            self.mlx_calls += 1
            self.mlx_seconds += seconds

    def count_torch_call(self, seconds: float) -> None:
        """Count a call that torch computed."""
        with _lock:
            self.torch_calls = (self.torch_calls or 0) + 1
            self.torch_seconds += seconds

    def fall_back(self, reason: str, strict: bool) -> None:
        """Record and log why the model falls back to torch; FallBackError if `strict`."""
        self.reason = reason
        if strict:
            raise FallBackError(
                f"{self.hf_class} of {self.model!r} would fall back to torch: {reason}. Run without strict to "
                "allow that, or without zero-change mode."
            )
        logger.warning("%s of %r falls back to torch: %s", self.hf_class, self.model, reason)


@dataclass
class Report:
    """Every model that was loaded since zero-change mode was installed, in order."""

    records: list[Record] = field(default_factory=list)

    def __str__(self) -> str:
        """Return a line for each model and library that it ran on, and why it fell back."""
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
